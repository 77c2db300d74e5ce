//! From visits to rows: columns, types, times, the text of `COPY`. No Postgres.

pub mod action_row;
pub mod batch;
pub mod cell;
pub mod column_type;
pub mod columns;
pub mod custom;
pub mod id_ranges;
pub mod layout;
pub mod lines;
pub mod mapping;
pub mod site_context;
pub mod times;
pub mod values;
pub mod visit_cells;
pub mod visit_tally;
