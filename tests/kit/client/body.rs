//! Checks a body while it arrives, so that it need not be kept.

use bytes::Bytes;

use crate::kit::app::{self, Content};

/// What is left to compare.
#[derive(Debug, Clone)]
pub struct BodyCheck {
    expected: Option<Content>,
    position: u64,
    wrong: Option<String>,
}

impl BodyCheck {
    /// Any body will do.
    pub fn any() -> Self {
        Self {
            expected: None,
            position: 0,
            wrong: None,
        }
    }

    pub fn exactly(body: Bytes) -> Self {
        Self::content(Content::Text(body))
    }

    pub fn content(content: Content) -> Self {
        Self {
            expected: Some(content),
            ..Self::any()
        }
    }

    /// The next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.wrong.is_none() && !self.matches(bytes) {
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
            self.wrong = Some(format!(
                "the {} bytes from offset {} are not what was expected: {start:?}",
                bytes.len(),
                self.position
            ));
        }
        self.position += bytes.len() as u64;
    }

    /// At the end: what was wrong, if anything.
    pub fn finish(self) -> Result<(), String> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        match self.expected {
            Some(content) if content.length() != self.position => Err(format!(
                "{} bytes instead of {}",
                self.position,
                content.length()
            )),
            _ => Ok(()),
        }
    }

    fn matches(&self, bytes: &[u8]) -> bool {
        match &self.expected {
            None => true,
            Some(Content::Text(text)) => {
                let start = usize::try_from(self.position).unwrap_or(usize::MAX);
                text.get(start..start.saturating_add(bytes.len())) == Some(bytes)
            }
            Some(Content::Pattern(_)) => app::is_pattern(self.position, bytes),
        }
    }
}
