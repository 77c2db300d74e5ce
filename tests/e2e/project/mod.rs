//! The project as a whole: its layers, documentation, versions.

mod architecture;
mod container;
mod docs;
mod errors;
mod lifecycle;
mod supply_chain;
mod update_data;
mod update_library;
mod update_rights;
mod update_script;
mod update_strangers;
mod updates;
mod upgrade;
mod valgrind;
