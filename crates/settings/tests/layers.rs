//! What wins over what, and what a person reads when something is wrong.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use clap::Parser;
use evenkeel_settings::{DocsError, Settings, SettingsArgs, check_docs, flags, load, render};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Ship {
    hull: Hull,
    crew: Crew,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Hull {
    name: String,
    masts: u16,
    afloat: bool,
    draught_m: f64,
    #[serde(with = "humantime_serde")]
    lease: Duration,
}

impl Default for Hull {
    fn default() -> Self {
        let lease = Duration::from_millis(500);
        Self { name: "Even Keel".into(), masts: 2, afloat: true, draught_m: 1.5, lease }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Crew {
    hands: Vec<String>,
    watches: Vec<Watch>,
    order: Order,
}

impl Default for Crew {
    fn default() -> Self {
        Self { hands: vec!["Ann".into(), "Bo".into()], watches: vec![], order: Order::ByRank }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Watch {
    hour: u8,
    hands: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Order {
    ByRank,
    ByLot,
}

impl Settings for Ship {
    const DOCS: &'static [(&'static str, &'static str)] = &[
        ("hull.name", "What is painted on the stern"),
        ("hull.masts", "How many masts there are"),
        ("hull.afloat", "Whether she swims"),
        ("hull.draught_m", "How deep, in metres"),
        ("hull.lease", "How long she is hired for"),
        ("crew.order", "Who goes first"),
        ("crew.hands", "Everybody aboard"),
        ("crew.watches", "Who is on deck when"),
    ];
    const TABLE_LISTS: &'static [&'static str] = &["crew.watches"];
}

/// Loads a ship; a failure's message, without the folder that the file happens to be in.
fn read(file: Option<&str>, env: &[(&str, &str)], args: &[&str]) -> Result<Ship, String> {
    let matches = clap::Command::new("ship")
        .args(flags::<Ship>())
        .try_get_matches_from(std::iter::once(&"ship").chain(args))
        .unwrap();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ship.toml");
    if let Some(text) = file {
        std::fs::write(&path, text).unwrap();
    }
    load(file.map(|_| path.as_path()), env, &matches)
        .map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

#[test]
fn without_any_layer_the_defaults_hold() {
    assert_eq!(read(None, &[], &[]).unwrap(), Ship::default());
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let file = "[hull]\nname = \"File\"\nmasts = 3\nafloat = false\n";
    let env = [("EVENKEEL_HULL_NAME", "Env"), ("EVENKEEL_HULL_MASTS", "4"), ("PATH", "/bin")];
    let ship = read(Some(file), &env, &["--hull-name", "Flag"]).unwrap();
    let expected = Hull { name: "Flag".into(), masts: 4, afloat: false, ..Hull::default() };
    assert_eq!(ship, Ship { hull: expected, crew: Crew::default() });
}

#[test]
fn every_kind_of_key_can_be_set_by_flag_and_by_variable() {
    let by_flag = [
        "--hull-name=X",
        "--hull-masts=1_0",
        "--hull-afloat=false",
        "--hull-draught-m=2.5",
        "--hull-lease=3s",
        "--crew-order=by-lot",
        "--crew-hands=Cy, Di",
        "--crew-watches=[{ hour = 4, hands = [\"Cy\"] }]",
    ];
    let by_variable: Vec<(String, &str)> = by_flag
        .iter()
        .map(|flag| {
            let (name, value) = flag[2..].split_once('=').unwrap();
            (format!("EVENKEEL_{}", name.replace('-', "_").to_uppercase()), value)
        })
        .collect();
    let by_variable: Vec<(&str, &str)> =
        by_variable.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let ship = read(None, &[], &by_flag).unwrap();
    assert_eq!(ship, read(None, &by_variable, &[]).unwrap());
    let lease = Duration::from_secs(3);
    let hull = Hull { name: "X".into(), masts: 10, afloat: false, draught_m: 2.5, lease };
    let watches = vec![Watch { hour: 4, hands: vec!["Cy".into()] }];
    let crew = Crew { hands: vec!["Cy".into(), "Di".into()], watches, order: Order::ByLot };
    assert_eq!(ship, Ship { hull, crew });
}

#[test]
fn an_empty_list_in_a_variable_or_a_flag_is_an_empty_list() {
    assert!(read(None, &[("EVENKEEL_CREW_HANDS", "")], &[]).unwrap().crew.hands.is_empty());
    assert!(read(None, &[], &["--crew-hands="]).unwrap().crew.hands.is_empty());
}

#[test]
fn a_value_wrong_in_a_lower_layer_is_told_even_when_a_flag_replaces_it() {
    let text = read(Some("[hull]\nmasts = \"two\"\n"), &[], &["--hull-masts=1"]).unwrap_err();
    assert!(text.starts_with("hull.masts = \"two\" (ship.toml:2): expected a whole number"), "{text}");
}

#[test]
fn every_mistake_in_a_file_is_one_line_with_key_value_line_and_remedy() {
    let table = [
        ("[hull]\nmast = 1\n", "hull.mast = 1 (ship.toml:2): not a known setting; did you mean hull.masts?"),
        (
            "[hull]\n\nhands = []",
            "hull.hands = [] (ship.toml:3): not a known setting; did you mean crew.hands?",
        ),
        (
            "[hul]\nname = \"x\"",
            "hul = { name = \"x\" } (ship.toml:1): not a known setting; did you mean [hull]?",
        ),
        (
            "[hull.mast]\nx = 1",
            "hull.mast = { x = 1 } (ship.toml:1): not a known setting; did you mean [hull]?",
        ),
        ("masts = 1", "masts = 1 (ship.toml:1): not a known setting; did you mean hull.masts?"),
        ("hull = 3", "hull = 3 (ship.toml:1): expected a section; write its keys below a line [hull]"),
        (
            "[hull]\nmasts = \"2\"",
            "hull.masts = \"2\" (ship.toml:2): expected a whole number; set something like 2",
        ),
        ("hull.masts = -1", "hull.masts = -1 (ship.toml:1): must not be negative; set a positive number"),
        ("hull.masts = 99999", "hull.masts = 99999 (ship.toml:1): is too large; set something like 2"),
        (
            "[hull]\nname = 7",
            "hull.name = 7 (ship.toml:2): expected a text; set something like \"Even Keel\"",
        ),
        (
            "[hull]\nlease = \"long\"",
            "hull.lease = \"long\" (ship.toml:2): invalid value: string \"long\", expected a duration; set something \
             like \"500ms\"",
        ),
        (
            "[crew]\norder = \"by-age\"",
            "crew.order = \"by-age\" (ship.toml:2): unknown variant `by-age`, expected `by-rank` or `by-lot`; set \
             something like \"by-rank\"",
        ),
        (
            "[crew]\nhands = [1]",
            "crew.hands = [1] (ship.toml:2): expected a list of texts; set something like [\"Ann\", \"Bo\"]",
        ),
        (
            "[[crew.watches]]\nhour = 1\nhand = []",
            "crew.watches = [{ hand = [], hour = 1 }] (ship.toml:1): unknown field `hand`, expected `hour` or \
             `hands`; set something like []",
        ),
    ];
    for (file, expected) in table {
        assert_eq!(read(Some(file), &[], &[]).unwrap_err(), expected);
    }
    let syntax = read(Some("[hull]\nname = \n"), &[], &[]).unwrap_err();
    assert!(syntax.starts_with("ship.toml:2: not valid TOML: ") && !syntax.contains('\n'), "{syntax}");
    let twice = read(Some("[hull]\nmasts = 1\nmasts = 2\n"), &[], &[]).unwrap_err();
    assert!(twice.starts_with("ship.toml:3: not valid TOML: duplicate key"), "{twice}");
}

#[test]
fn every_mistake_in_a_variable_or_flag_names_it() {
    let text = read(None, &[("EVENKEEL_HULL_MAST", "3")], &[]).unwrap_err();
    assert_eq!(
        text,
        "EVENKEEL_HULL_MAST = 3 (environment variable EVENKEEL_HULL_MAST): not a known setting; did you mean \
         EVENKEEL_HULL_MASTS?"
    );
    let text = read(None, &[("EVENKEEL_HULL_MASTS", "three")], &[]).unwrap_err();
    assert_eq!(
        text,
        "hull.masts = three (environment variable EVENKEEL_HULL_MASTS): expected a whole number; set something like 2"
    );
    let text = read(None, &[], &["--hull-masts", "-3"]).unwrap_err();
    assert_eq!(text, "hull.masts = -3 (flag --hull-masts): must not be negative; set a positive number");
    let text = read(None, &[], &["--hull-afloat=yes"]).unwrap_err();
    assert_eq!(
        text,
        "hull.afloat = yes (flag --hull-afloat): expected true or false; set something like true"
    );
    let text = read(None, &[], &["--crew-watches=4"]).unwrap_err();
    assert_eq!(
        text,
        "crew.watches = 4 (flag --crew-watches): expected a list of tables; set something like []"
    );
}

#[test]
fn variables_of_other_programs_and_sections_are_left_alone() {
    let env = [("EVENKEEL_LOG", "debug"), ("EVENKEEL_HULLS", "2"), ("HULL_MAST", "1")];
    assert_eq!(read(None, &env, &[]).unwrap(), Ship::default());
}

#[test]
fn a_missing_file_is_named() {
    let matches = clap::Command::new("ship").get_matches_from(["ship"]);
    let missing = std::path::Path::new("no/such/ship.toml");
    let error = load::<Ship>(Some(missing), [], &matches).unwrap_err().to_string();
    assert!(error.starts_with("--config no/such/ship.toml: cannot read the file: "), "{error}");
}

#[test]
fn rendered_settings_explain_every_key_and_read_back_the_same() {
    let mut ship = Ship::default();
    ship.hull.name = "Two\n\"lines\"".into();
    ship.crew.watches = vec![Watch { hour: 4, hands: vec!["Ann".into()] }, Watch { hour: 8, hands: vec![] }];
    let text = render(&ship).unwrap();
    assert_eq!(read(Some(&text), &[], &[]).unwrap(), ship);
    for (key, doc) in Ship::DOCS {
        let name = key.rsplit('.').next().unwrap();
        assert!(text.contains(&format!("# {doc}\n{name} = ")), "{key} in {text}");
    }
    ship.hull.name = "Even Keel".into();
    let expected = "[hull]\n# What is painted on the stern\nname = \"Even Keel\"\n# How many masts there are\n\
                    masts = 2\n# Whether she swims\nafloat = true\n# How deep, in metres\ndraught_m = 1.5\n\
                    # How long she is hired for\nlease = \"500ms\"\n\n[crew]\n# Who goes first\n\
                    order = \"by-rank\"\n# Everybody aboard\nhands = [\"Ann\", \"Bo\"]\n# Who is on deck when\n\
                    watches = [\n    { hands = [\"Ann\"], hour = 4 },\n    { hands = [], hour = 8 },\n]\n";
    assert_eq!(render(&ship).unwrap(), expected);
}

#[test]
fn help_tells_what_a_flag_is_for_its_default_and_its_variable() {
    let help = clap::Command::new("ship").args(flags::<Ship>()).render_help().to_string();
    for part in [
        "--hull-draught-m <NUMBER>",
        "How deep, in metres [default: 1.5] [env: EVENKEEL_HULL_DRAUGHT_M]",
        "Everybody aboard [default: Ann,Bo] [env: EVENKEEL_CREW_HANDS]",
        "Settings of [crew]",
    ] {
        assert!(help.contains(part), "{part} in {help}");
    }
}

#[derive(Debug, Parser)]
struct Cli {
    #[arg(long)]
    config: Option<std::path::PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs<Ship>,
}

#[test]
fn derived_commands_take_the_flags_beside_their_own() {
    let cli = Cli::parse_from(["ship", "--hull-masts", "5", "--config", "no/such/ship.toml"]);
    assert_eq!(cli.settings.load(None, []).unwrap().hull.masts, 5);
    assert!(cli.settings.load(cli.config.as_deref(), []).is_err());
}

#[derive(Default, Serialize, Deserialize)]
struct Undocumented {
    a: u8,
}

impl Settings for Undocumented {
    const DOCS: &'static [(&'static str, &'static str)] = &[];
}

#[derive(Default, Serialize, Deserialize)]
struct Overdocumented {}

impl Settings for Overdocumented {
    const DOCS: &'static [(&'static str, &'static str)] = &[("b", "Is not there")];
}

#[derive(Default, Serialize, Deserialize)]
struct Ambiguous {
    a_b: u8,
    a: Inner,
}

#[derive(Default, Serialize, Deserialize)]
struct Inner {
    b: u8,
}

impl Settings for Ambiguous {
    const DOCS: &'static [(&'static str, &'static str)] = &[("a_b", "One"), ("a.b", "Other")];
}

#[test]
fn explanations_must_match_the_keys() {
    assert_eq!(check_docs::<Ship>(), Ok(()));
    assert_eq!(check_docs::<Undocumented>(), Err(DocsError::Undocumented("a".into())));
    assert_eq!(check_docs::<Overdocumented>(), Err(DocsError::NoSuchKey("b")));
    assert_eq!(check_docs::<Ambiguous>(), Err(DocsError::SameVariable("a_b", "a.b", "EVENKEEL_A_B".into())));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(500))]

    #[test]
    fn no_file_brings_the_reader_down(text in "\\PC{0,200}") {
        let _ = read(Some(&text), &[], &[]);
    }

    #[test]
    fn no_almost_right_file_does(
        section in "(hull|crew|\\[?[a-z.]{0,9})",
        key in "(name|masts|afloat|draught_m|lease|order|hands|watches|[a-z.\"]{0,9})",
        value in "(-?[0-9]{0,40}(\\.[0-9]{0,9})?(e[0-9]{0,5})?|\"[^\"]{0,9}\"?|[\\[{]{0,300}|true|nan|inf|[0-9]{4}-[0-9]{2}-[0-9]{2})",
    ) {
        let _ = read(Some(&format!("[{section}]\n{key} = {value}\n")), &[], &[]);
    }
}
