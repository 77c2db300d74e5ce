//! From visits to rows: columns, types, times, the text of `COPY`. No Postgres.

pub mod batch;
pub mod columns;
pub mod custom;
pub mod lines;
pub mod mapping;
pub mod times;
pub mod values;
pub mod visit_tally;
