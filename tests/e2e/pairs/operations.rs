//! The operations of the pairs.

use crate::pairs::scene::{PERSON, Scene, VISITOR};

/// The URL that `Operation::ChangeUrl` gives.
pub const NEW_URL: &str = "https://moved.test";

/// One operation of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// All days of site 1, with `force`.
    Sync,
    /// The same for site 2.
    OtherSync,
    /// Registered site 1.
    Run,
    Repair,
    Forget,
    /// All sites, before `Scene::bound`.
    DropBefore,
    /// Registered site 1, with the upkeep that drops rows before `Scene::bound`.
    Retention,
    Truncate,
    Rename,
    /// The partition of the day 12 days ago.
    Detach,
    /// A partition of later years.
    Attach,
    /// The table of visits gets another name and other columns.
    AlterVisits,
    TruncateVisits,
    DropVisits,
    /// The table of conversions is made anew, and all days are opened for it.
    CreateCompanions,
    AlterSite,
    /// Registered site 1 gets a retention, to `Scene::bound`.
    AlterRetention,
    /// Registered site 1 gets another owner.
    GiveSite,
    /// Registered site 1 gets another table.
    MoveSite,
    RemoveSite,
    /// The Matomo of the table gets another URL, which no sync uses.
    ChangeUrl,
    DropServer,
    DropRole,
}

pub const ALL: [Operation; 23] = [
    Operation::Sync,
    Operation::OtherSync,
    Operation::Run,
    Operation::Repair,
    Operation::Forget,
    Operation::DropBefore,
    Operation::Retention,
    Operation::Truncate,
    Operation::Rename,
    Operation::Detach,
    Operation::Attach,
    Operation::AlterVisits,
    Operation::TruncateVisits,
    Operation::DropVisits,
    Operation::CreateCompanions,
    Operation::AlterSite,
    Operation::AlterRetention,
    Operation::GiveSite,
    Operation::MoveSite,
    Operation::RemoveSite,
    Operation::ChangeUrl,
    Operation::DropServer,
    Operation::DropRole,
];

/// Where the operation stops in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Everything is done but the commit.
    AtCommit,
    /// In a trigger, when it inserts or deletes a row or a partition.
    AtRow(&'static str),
}

impl Operation {
    pub fn stop(self) -> Stop {
        match self {
            Operation::Sync | Operation::OtherSync | Operation::Run | Operation::Repair => {
                Stop::AtRow("INSERT")
            }
            Operation::DropBefore | Operation::Retention => Stop::AtRow("DELETE"),
            _ => Stop::AtCommit,
        }
    }

    /// Whether it is a statement of Postgres.
    pub fn is_of_postgres(self) -> bool {
        matches!(
            self,
            Operation::Truncate
                | Operation::Rename
                | Operation::Detach
                | Operation::Attach
                | Operation::AlterVisits
                | Operation::TruncateVisits
                | Operation::DropVisits
                | Operation::DropServer
                | Operation::DropRole
        )
    }

    /// Whether it commits more than once, so that another may run between its steps.
    pub fn has_steps(self) -> bool {
        matches!(self, Operation::Run | Operation::Retention | Operation::DropBefore)
    }

    /// Whether it reads Matomo.
    pub fn reads(self) -> bool {
        matches!(
            self,
            Operation::Sync
                | Operation::OtherSync
                | Operation::Run
                | Operation::Repair
                | Operation::Retention
        )
    }

    /// An erasure is done in Matomo first.
    pub fn prepare(self, scene: &Scene) {
        if self == Operation::Forget {
            let mut world = scene.fake.world();
            for (site, id) in PERSON.iter().flat_map(|id| [(1, *id), (2, *id + 2000)]) {
                world.site_mut(site).delete(id);
            }
        }
    }

    pub fn sql(self, scene: &Scene) -> String {
        let access = format!("'{}', '{}'", scene.fake.url(), scene.fake.token());
        let (first, today) = (scene.noon.text(19), scene.noon.text(0));
        let (role, site) = (&scene.role, scene.site);
        match self {
            Operation::Sync | Operation::OtherSync => {
                let site = if self == Operation::Sync { 1 } else { 2 };
                format!(
                    "SELECT * FROM matomo_sync({site}, {access}, '{first}', destination => 'visits', force => true)"
                )
            }
            Operation::Run | Operation::Retention => format!("CALL matomo_sync_site({site})"),
            Operation::Repair => format!(
                "SELECT * FROM matomo_check(1, '{first}', '{today}', {access}, 'visits', repair => true, deep => true)"
            ),
            Operation::Forget => format!("SELECT * FROM matomo_forget('{VISITOR}')"),
            Operation::DropBefore => format!(
                "CALL matomo_drop_before('visits', to_timestamp({}), patience => '10 s')",
                scene.bound()
            ),
            Operation::Truncate => "TRUNCATE visits".to_owned(),
            Operation::Rename => "ALTER TABLE visits RENAME TO renamed".to_owned(),
            Operation::Detach => {
                format!("ALTER TABLE visits DETACH PARTITION {}", scene.partition)
            }
            Operation::Attach => "CREATE TABLE visits_later (LIKE visits);
                 ALTER TABLE visits ATTACH PARTITION visits_later FOR VALUES FROM ('2040-01-02') TO ('2040-01-09')"
                .to_owned(),
            Operation::AlterVisits => "ALTER TABLE visits_visits RENAME TO renamed_visits;
                 ALTER TABLE renamed_visits DROP COLUMN plugins, ADD COLUMN mine text"
                .to_owned(),
            Operation::TruncateVisits => "TRUNCATE visits_visits".to_owned(),
            Operation::DropVisits => "DROP TABLE visits_visits".to_owned(),
            Operation::CreateCompanions => {
                "DROP TABLE visits_conversions; SELECT matomo_create_companions('visits')"
                    .to_owned()
            }
            Operation::AlterSite => {
                format!("SELECT matomo_alter_site({site}, start_date => '{}')", scene.noon.text(17))
            }
            Operation::AlterRetention => {
                format!("SELECT matomo_alter_site({site}, retention => '10 days')")
            }
            Operation::GiveSite => {
                format!("SELECT matomo_alter_site({site}, owner => 'postgres')")
            }
            Operation::MoveSite => {
                format!("SELECT matomo_alter_site({site}, destination => 'public.visits_moved')")
            }
            Operation::RemoveSite => format!("SELECT matomo_remove_site({site})"),
            Operation::ChangeUrl => {
                format!("SELECT matomo_change_url('visits', '{}', '{NEW_URL}')", scene.fake.url())
            }
            Operation::DropServer => "DROP SERVER analytics CASCADE".to_owned(),
            Operation::DropRole => {
                format!(
                    "REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}"
                )
            }
        }
    }
}
