//! Python with what `requirements.txt` names, in a virtual environment below the build's folder.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

const REQUIRE: &str = "EVENKEEL_REQUIRE_PYZEEBE";
/// Another interpreter than the first `python3` of the path.
const INTERPRETER: &str = "EVENKEEL_PYTHON";

/// The interpreter of the environment, made where it is not there or has something else in it.
fn make() -> Result<PathBuf, String> {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let made = scratch.join("python");
    let wanted = std::fs::read(file("requirements.txt")).map_err(|error| error.to_string())?;
    let python = made.join("bin/python");
    if std::fs::read(made.join("requirements.txt")).is_ok_and(|has| has == wanted) && python.exists() {
        return Ok(python);
    }
    // Whole before it has its name: a run that was cut short leaves nothing that looks finished.
    let growing =
        tempfile::Builder::new().prefix("python-").tempdir_in(scratch).map_err(|e| e.to_string())?;
    let interpreter = std::env::var(INTERPRETER).unwrap_or_else(|_| "python3".to_owned());
    run(Command::new(interpreter).args(["-m", "venv"]).arg(growing.path()))?;
    run(Command::new(growing.path().join("bin/python"))
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            "--requirement",
        ])
        .arg(file("requirements.txt")))?;
    std::fs::write(growing.path().join("requirements.txt"), wanted).map_err(|error| error.to_string())?;
    if made.exists() {
        std::fs::remove_dir_all(&made).map_err(|error| error.to_string())?;
    }
    std::fs::rename(growing.keep(), &made).map_err(|error| error.to_string())?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}: {said}", output.status))
}

/// A file of this suite.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interfaces").join(name)
}

/// The interpreter. Where there is none, or PyPI cannot be reached, the test is to be skipped, and says so past what
/// captures output; with `EVENKEEL_REQUIRE_PYZEEBE` it fails.
pub fn python() -> Option<PathBuf> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match MADE.get_or_init(make) {
        Ok(python) => Some(python.clone()),
        Err(error) => {
            let remedy = "install Python 3.10 or newer with venv, and let pip reach PyPI";
            assert!(std::env::var_os(REQUIRE).is_none(), "{REQUIRE} is set: {error}; {remedy}");
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: {test}: {error}; {remedy}\n");
            None
        }
    }
}
