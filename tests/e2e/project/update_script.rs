//! `packaging/update-script`, which writes most of the script for `ALTER EXTENSION … UPDATE`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::pages::root;
use crate::support::*;

const SCRIPT: &str = "sql/matomo_postgres--0.1.0--0.2.0.sql";
const BLOCK: &str = "/* <begin connected objects> */";

/// The script written for this install script, in a copy of the files that
/// `packaging/update-script` uses.
fn written_for(install: &str, folder: &Path) -> String {
    for file in ["packaging/update-script", "sql/released/matomo_postgres--0.1.0.sql", SCRIPT] {
        fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
        fs::copy(root().join(file), folder.join(file)).unwrap();
    }
    let package = folder.join("package");
    fs::create_dir_all(&package).unwrap();
    fs::write(package.join("matomo_postgres--0.2.0.sql"), install).unwrap();
    let output = Command::new(folder.join("packaging/update-script"))
        .arg("0.1.0")
        .env("MATOMO_PACKAGE", &package)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read_to_string(folder.join(SCRIPT)).unwrap()
}

/// cargo-pgrx orders objects by dependency and otherwise at random.
#[test]
fn the_update_script_is_the_same_in_whichever_order_cargo_pgrx_writes_the_objects() {
    let mut db = database();
    let share: String = one(&mut db, "SELECT setting FROM pg_config WHERE name = 'SHAREDIR'");
    let install =
        fs::read_to_string(format!("{share}/extension/matomo_postgres--0.2.0.sql")).unwrap();
    let mut blocks: Vec<_> = install.split_inclusive(BLOCK).collect();
    // Each part ends with the mark that starts the next one.
    let first = blocks.remove(0);
    blocks.reverse();
    let mut last = blocks.remove(0).to_owned();
    last.push_str(BLOCK);
    let reversed = [&[first, last.as_str()][..], &blocks].concat().concat();
    let reversed = reversed.strip_suffix(BLOCK).unwrap();
    assert_ne!(reversed, install);
    assert_eq!(reversed.len(), install.len());

    let folder = PathBuf::from(format!("/tmp/matomo_e2e_update.{}", std::process::id()));
    let kept = fs::read_to_string(root().join(SCRIPT)).unwrap();
    for (order, install) in [("as built", install.as_str()), ("reversed", reversed)] {
        let written = written_for(install, &folder);
        fs::remove_dir_all(&folder).unwrap();
        assert!(written == kept, "{order}: run packaging/update-script 0.1.0");
    }
}
