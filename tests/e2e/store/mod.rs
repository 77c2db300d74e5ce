//! Destinations, and how rows get into them.

mod citus;
mod companion_tables;
mod companions;
mod crash;
mod definers;
mod engines;
mod failed_copies;
mod foreign;
mod four_tables;
mod hypertables;
mod memory;
mod node_tables;
mod own_tables;
mod partitions;
mod read_back;
mod renamed;
mod schema;
mod swapped_companions;
mod visits_anew;
