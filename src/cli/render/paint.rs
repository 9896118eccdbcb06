//! Colours, where they are wanted.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};

/// Colours on or off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    on: bool,
}

/// What a text means; the colour only repeats what its words say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    #[default]
    Plain,
    Good,
    Warn,
    Bad,
    Faint,
    Strong,
    Hint,
}

impl Tone {
    const fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warn => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Faint => Style::new().dimmed(),
            Self::Strong => Style::new().bold(),
            Self::Hint => AnsiColor::Cyan.on_default(),
        }
    }
}

impl Paint {
    pub(crate) const fn new(on: bool) -> Self {
        Self { on }
    }

    pub(crate) const fn on(self) -> bool {
        self.on
    }

    pub(crate) fn tone(self, tone: Tone, text: impl Display) -> String {
        if self.on && tone != Tone::Plain {
            let style = tone.style();
            format!("{style}{text}{style:#}")
        } else {
            text.to_string()
        }
    }

    pub(crate) fn good(self, text: impl Display) -> String {
        self.tone(Tone::Good, text)
    }

    pub(crate) fn warn(self, text: impl Display) -> String {
        self.tone(Tone::Warn, text)
    }

    pub(crate) fn bad(self, text: impl Display) -> String {
        self.tone(Tone::Bad, text)
    }

    pub(crate) fn faint(self, text: impl Display) -> String {
        if text.to_string().is_empty() {
            return String::new();
        }
        self.tone(Tone::Faint, text)
    }

    pub(crate) fn strong(self, text: impl Display) -> String {
        self.tone(Tone::Strong, text)
    }

    pub(crate) fn hint(self, text: impl Display) -> String {
        self.tone(Tone::Hint, text)
    }
}
