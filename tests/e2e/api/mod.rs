//! Who may call which functions, and with whose rights they run.

mod companions;
mod grants;
mod hidden_rows;
mod many_sites;
pub mod operators;
pub mod overloads;
mod privileges;
mod rights;
mod role_matrix;
mod swapped_schemas;
mod taken_companions;
mod whose;
