//! Questions: who answers them, and what happens where nobody can.

use std::io::{self, BufRead, IsTerminal};

use crate::{fault::Fault, output::Output};

/// How questions are answered.
pub struct Questions {
    output: Output,
    yes: bool,
}

impl Questions {
    /// On the terminal, or with yes by `--yes`.
    ///
    /// # Errors
    /// Where there is neither. `next` is the way out.
    pub fn new(output: Output, yes: bool, next: &str) -> Result<Self, Fault> {
        if !yes && !io::stdin().is_terminal() {
            return Err(Fault::new("there is no terminal to ask on", next));
        }
        Ok(Self { output, yes })
    }

    /// Whether nobody is asked.
    pub fn yes(&self) -> bool {
        self.yes
    }

    /// No answer is no.
    pub fn question(&self, text: &str) -> Result<bool, Fault> {
        if self.yes {
            return Ok(true);
        }
        let failed = |error: io::Error| Fault::new(error.to_string(), "");
        self.output.prompt(text);
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map_err(failed)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}
