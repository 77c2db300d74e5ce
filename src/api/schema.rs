//! The files of SQL that the extension is made of, and what each needs before it.

use pgrx::prelude::*;

// The template of all destinations: `rows::columns` as SQL, written by build.rs.
include!(concat!(env!("OUT_DIR"), "/template.rs"));
create_template!();

extension_sql_file!("../../sql/tables.sql", name = "tables", requires = ["template"]);
extension_sql_file!("../../sql/partitions.sql", name = "partitions", requires = ["tables"]);
extension_sql_file!("../../sql/ledger.sql", name = "ledger");
extension_sql_file!(
    "../../sql/forget.sql",
    name = "forget",
    requires = [api::deletion::matomo_forget_0_2_reconnect]
);
extension_sql_file!(
    "../../sql/retention.sql",
    name = "retention",
    requires = [api::runs::matomo_run_outside_transaction]
);
extension_sql_file!("../../sql/sites.sql", name = "sites", requires = ["ledger"]);
extension_sql_file!(
    "../../sql/runs.sql",
    name = "runs",
    requires = [
        "sites",
        api::runs::matomo_run_is_dead_0_2_reconnect,
        api::runs::matomo_is_running_0_2_reconnect
    ]
);
extension_sql_file!(
    "../../sql/status.sql",
    name = "status",
    requires = ["ledger", "runs", api::sites::matomo_today]
);
extension_sql_file!(
    "../../sql/server.sql",
    name = "server",
    requires = [api::server::matomo_fdw_validator]
);
extension_sql_file!(
    "../../sql/procedures.sql",
    name = "procedures",
    requires = [
        "runs",
        "retention",
        api::runs::matomo_run_sites_0_2_reconnect,
        api::runs::matomo_run_step_0_2_reconnect
    ]
);
extension_sql_file!(
    "../../sql/privileges.sql",
    name = "privileges",
    requires = ["procedures", api::ledger::matomo_change_url_0_2_reconnect],
    finalize
);
