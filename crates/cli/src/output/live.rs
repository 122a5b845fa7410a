//! `--watch`: the same picture again and again, drawn over itself on a terminal, one after the other elsewhere.

use std::future::Future;
use std::io::IsTerminal;
use std::time::Duration;

use serde_json::Value;

use crate::output::format::Output;
use crate::output::outcome::{EXIT_TIMED_OUT, EXIT_UNREACHABLE, Failure, note, print, write_out};
use crate::processes::signals::stop_requested;

/// One picture: what people see, and the same as data.
pub struct Frame {
    pub people: String,
    pub data: Value,
}

/// Shows a frame at each interval until the person ends it. A cluster that does not answer for a while is waited for.
pub async fn repeat<F: Future<Output = Result<Frame, Failure>>>(
    output: Output,
    interval: Duration,
    mut frame: impl FnMut() -> F,
) -> Result<(), Failure> {
    let stop = stop_requested()?;
    tokio::pin!(stop);
    let mut first = true;
    loop {
        let shown = tokio::select! {
            shown = frame() => shown,
            _ = &mut stop => return Ok(()),
        };
        match shown {
            Ok(shown) => show(output, shown, first)?,
            Err(failure) if matches!(failure.code, EXIT_UNREACHABLE | EXIT_TIMED_OUT) && !first => {
                note(failure);
            }
            Err(failure) => return Err(failure),
        }
        first = false;
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            _ = &mut stop => return Ok(()),
        }
    }
}

fn show(output: Output, frame: Frame, first: bool) -> Result<(), Failure> {
    if !output.is_for_people() {
        return output.print_one_of_many(frame.data);
    }
    if std::io::stdout().is_terminal() {
        return write_out(redrawn(&frame.people).as_bytes());
    }
    if !first {
        print("")?;
    }
    print(frame.people)
}

/// From the top left corner, each line and the rest of the screen cleared: without the flicker of a cleared screen.
fn redrawn(text: &str) -> String {
    let lines: String = text.lines().map(|line| format!("{line}\u{1b}[K\n")).collect();
    format!("\u{1b}[H{lines}\u{1b}[J")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_drawn_over_the_last_one() {
        assert_eq!(redrawn("a\nb"), "\u{1b}[Ha\u{1b}[K\nb\u{1b}[K\n\u{1b}[J");
    }
}
