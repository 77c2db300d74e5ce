//! Keeps in the library what only its SQL refers to.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // cargo-pgrx sets this for every crate through RUSTFLAGS, with which `cargo test` could share
    // none of them; packaging/setup tells it not to.
    println!("cargo::rustc-link-arg-cdylib=-Wl,--no-gc-sections");
}
