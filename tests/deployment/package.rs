//! The Debian package.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::tools::{at_root, command, installed, run, static_binary};

#[test]
fn the_package_installs_a_binary_that_runs_its_units_and_examples() {
    if !installed("dpkg-deb", &["--version"], "install Debian's package `dpkg`") {
        return;
    }
    let Some(binary) = static_binary() else { return };
    let folder = tempfile::tempdir().unwrap();
    let built = run(&mut command(at_root("deploy/deb/build.sh"), [binary.as_path(), folder.path()]));
    let package = Path::new(built.trim());
    let control = run(command("dpkg-deb", ["--field"]).arg(package));
    for wanted in ["Package: evenkeel", "Version: 0.1.0-1", "Architecture: amd64", "Depends: systemd"] {
        assert!(control.lines().any(|line| line.starts_with(wanted)), "{wanted} is not in\n{control}");
    }
    let contents = run(command("dpkg-deb", ["--contents"]).arg(package));
    assert!(contents.lines().all(|line| line.contains(" root/root ")), "{contents}");

    let root = folder.path().join("root");
    run(command("dpkg-deb", ["--extract"]).arg(package).arg(&root));
    let installed = root.join("usr/bin/evenkeel");
    assert_eq!(std::fs::metadata(&installed).unwrap().permissions().mode() & 0o777, 0o755);
    assert!(run(&mut command(&installed, ["--version"])).starts_with("evenkeel "));
    for file in [
        "usr/lib/sysusers.d/evenkeel.conf",
        "usr/lib/tmpfiles.d/evenkeel.conf",
        "usr/share/doc/evenkeel/copyright",
        "usr/share/doc/evenkeel/changelog.Debian.gz",
        "usr/share/man/man1/evenkeel.1.gz",
        "usr/share/man/man1/evenkeel-rebalance-status.1.gz",
        "usr/share/bash-completion/completions/evenkeel",
        "usr/share/zsh/vendor-completions/_evenkeel",
        "usr/share/fish/vendor_completions.d/evenkeel.fish",
    ] {
        assert!(root.join(file).is_file(), "{file}");
    }
    for kind in ["broker", "gateway"] {
        let unit = format!("evenkeel-{kind}.service");
        let unit = std::fs::read_to_string(root.join("usr/lib/systemd/system").join(unit)).unwrap();
        assert!(unit.contains(&format!("ExecStart=/usr/bin/evenkeel {kind} ")), "{unit}");
        let example = root.join(format!("usr/share/doc/evenkeel/examples/{kind}.toml"));
        let text = std::fs::read_to_string(example).unwrap();
        match kind {
            "broker" => drop(toml::from_str::<evenkeel_broker::Options>(&text).unwrap().validate().unwrap()),
            _ => drop(toml::from_str::<evenkeel_gateway::Options>(&text).unwrap().contacts().unwrap()),
        }
    }
    // The user that the units name.
    let sysusers = std::fs::read_to_string(root.join("usr/lib/sysusers.d/evenkeel.conf")).unwrap();
    assert!(sysusers.starts_with("u evenkeel "), "{sysusers}");
    if crate::tools::answers("systemd-sysusers", &["--version"]) {
        std::fs::create_dir(root.join("etc")).unwrap();
        run(command("systemd-sysusers", ["--root"]).arg(&root));
        let passwd = std::fs::read_to_string(root.join("etc/passwd")).unwrap();
        assert!(passwd.lines().any(|line| line.starts_with("evenkeel:")), "{passwd}");
    }
}
