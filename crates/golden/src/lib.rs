//! Runs scripts that carry their expected output, after etcd's `testdata`: blocks of commands, a line `----`, what
//! the commands print, an empty line. Lines that start with `#` say what the next block shows.
//!
//! With `UPDATE_GOLDEN=1` in the environment the files are rewritten with what was printed: review the diff.

#![allow(clippy::unwrap_used)] // Only tests call this: a script that cannot be read fails them.

use std::fmt::Write as _;
use std::path::Path;

/// Runs every `.txt` file of `testdata/<folder>` in the crate under test, each with its own interpreter from
/// `new`. The interpreter gets one command at a time and returns what it prints.
pub fn run<I: FnMut(&str) -> String>(folder: &str, new: impl Fn() -> I) {
    // Set by cargo for the test that runs, so it names the crate under test and not this one.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    let folder = Path::new(&package).join("testdata").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no scripts in {}", folder.display());
    let mut failures = String::new();
    for file in files {
        let script = std::fs::read_to_string(&file).unwrap();
        let actual = replay(&script, &mut new());
        if actual == script {
            continue;
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&file, &actual).unwrap();
        } else {
            let _ = write!(failures, "\n{} should read:\n{actual}", file.display());
        }
    }
    assert!(failures.is_empty(), "{failures}\nUPDATE_GOLDEN=1 rewrites the files; review the difference");
}

/// The script with every block's output replaced by what its commands print now.
fn replay(script: &str, interpreter: &mut impl FnMut(&str) -> String) -> String {
    let mut replayed = String::new();
    let mut printed = String::new();
    let mut in_output = false;
    for line in script.lines().chain(std::iter::once("")) {
        match line {
            "----" => {
                let _ = write!(replayed, "----\n{printed}");
                printed.clear();
                in_output = true;
            }
            "" => {
                assert!(printed.is_empty(), "this output needs a line ---- before it:\n{printed}");
                in_output = false;
                replayed.push('\n');
            }
            _ if in_output => {}
            _ => {
                let _ = writeln!(replayed, "{line}");
                if !line.starts_with('#') {
                    printed.push_str(&interpreter(line));
                }
            }
        }
    }
    // Exactly one line end at the end.
    replayed.truncate(replayed.trim_end().len());
    replayed.push('\n');
    replayed
}
