//! From visits to rows.

mod action_time;
mod encodings;
mod exactness;
mod hostile;
mod odd_data;
mod odd_values;
mod typed_columns;
