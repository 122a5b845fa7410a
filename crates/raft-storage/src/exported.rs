//! How far exporters have got in a partition: part of its state, so that it survives leaders and comes with snapshots.

use evenkeel_protocol::internal::v1::ExportedPosition;

/// Exporters that a partition remembers.
pub const EXPORTERS_MAX: usize = 16;
/// Longest name of one.
pub const EXPORTER_NAME_BYTES_MAX: usize = 64;

/// Takes in what a command says. Positions never go back: an old leader's word that comes late changes nothing.
/// Deterministic: every replica does the same, or refuses with the same words.
pub(crate) fn reach(
    known: &mut Vec<ExportedPosition>,
    told: Vec<ExportedPosition>,
) -> Result<(), &'static str> {
    if told.iter().any(|told| told.exporter.is_empty() || told.exporter.len() > EXPORTER_NAME_BYTES_MAX) {
        return Err("an exporter's name is empty or too long");
    }
    for told in told {
        match known.iter().position(|known| known.exporter == told.exporter) {
            Some(at) => known[at].position = known[at].position.max(told.position),
            None if known.len() < EXPORTERS_MAX => known.push(told),
            None => return Err("too many exporters"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(exporter: &str, position: u64) -> ExportedPosition {
        ExportedPosition { exporter: exporter.to_owned(), position }
    }

    #[test]
    fn positions_only_grow_and_exporters_are_bounded() {
        let mut known = Vec::new();
        for (position, expected) in [(5, 5), (9, 9), (7, 9)] {
            reach(&mut known, vec![told("a", position)]).unwrap();
            assert_eq!(known, [told("a", expected)]);
        }
        for name in ["", &"n".repeat(EXPORTER_NAME_BYTES_MAX + 1)] {
            assert!(reach(&mut known, vec![told(name, 1)]).is_err());
        }
        for i in 1..EXPORTERS_MAX {
            reach(&mut known, vec![told(&i.to_string(), 1)]).unwrap();
        }
        assert!(reach(&mut known, vec![told("one too many", 1)]).is_err());
        assert_eq!(known.len(), EXPORTERS_MAX);
    }
}
