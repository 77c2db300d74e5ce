//! Functions that the SQL of 0.1.0 names and the current SQL does not. They stay in the library, so that
//! `pg_upgrade` and `CREATE EXTENSION` find them; to a call they say that `ALTER EXTENSION … UPDATE` is
//! due. `sql/released/README.md` has the rules.

use pgrx::prelude::*;

use crate::pg::ereport::or_raise;
use crate::pg::extension::Extension;

macro_rules! released {
    ($($function:ident $info:ident;)*) => {$(
        /// Postgres looks for this beside each function.
        #[unsafe(no_mangle)]
        pub extern "C" fn $info() -> &'static pg_sys::Pg_finfo_record {
            &pg_sys::Pg_finfo_record { api_version: 1 }
        }

        /// Raises an ERROR.
        #[pg_guard]
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $function(_call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            or_raise(Extension::find().map(|_| pg_sys::Datum::null()))
        }
    )*};
}

released! {
    matomo_add_site_wrapper pg_finfo_matomo_add_site_wrapper;
    matomo_alter_site_wrapper pg_finfo_matomo_alter_site_wrapper;
    matomo_change_url_wrapper pg_finfo_matomo_change_url_wrapper;
    matomo_check_wrapper pg_finfo_matomo_check_wrapper;
    matomo_note_ownerless_wrapper pg_finfo_matomo_note_ownerless_wrapper;
    matomo_remove_site_wrapper pg_finfo_matomo_remove_site_wrapper;
    matomo_run_begin_wrapper pg_finfo_matomo_run_begin_wrapper;
    matomo_run_copy_wrapper pg_finfo_matomo_run_copy_wrapper;
    matomo_run_fail_wrapper pg_finfo_matomo_run_fail_wrapper;
    matomo_run_report_wrapper pg_finfo_matomo_run_report_wrapper;
    matomo_run_warn_wrapper pg_finfo_matomo_run_warn_wrapper;
    matomo_seal_dropped_wrapper pg_finfo_matomo_seal_dropped_wrapper;
    matomo_sync_wrapper pg_finfo_matomo_sync_wrapper;
    matomo_upkeep_wrapper pg_finfo_matomo_upkeep_wrapper;
    matomo_upkeep_fail_wrapper pg_finfo_matomo_upkeep_fail_wrapper;
}
