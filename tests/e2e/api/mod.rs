//! Who may call what, and with whose rights.

mod grants;
mod overloads;
mod privileges;
mod rights;
mod role_matrix;
mod whose;
