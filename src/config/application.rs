//! The application's own part of the configuration: the table `[application]`, of a type that its
//! program chooses. It is checked where the rest is, with the line shown, and goes to the workers as
//! it stands.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::merge::{Merged, Step, plain};

/// `[application]`, not read yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Application(toml::Table);

/// How a program reads its part. `None`: it has none, and the table is an unknown key.
#[derive(Clone, Copy, Default)]
pub struct Reader(Option<Check>);

type Check = fn(toml::Deserializer<'_>) -> Result<(), toml::de::Error>;

pub(super) const KEY: &str = "application";

impl Application {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As the program's type. [`Reader`] has checked it, where it was loaded by the same program.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, toml::de::Error> {
        self.0.clone().try_into()
    }
}

impl Reader {
    /// The program reads it as a `T`. A program without such a table in its files reads an empty one.
    #[must_use]
    pub fn of<T: DeserializeOwned>() -> Self {
        Self(Some(|table| T::deserialize(table).map(drop)))
    }

    /// Whether what the files say can be read.
    pub(super) fn check(self, merged: &Merged<'_>) -> Result<(), ConfigError> {
        let found = merged.value(KEY);
        let at = || merged.place_of(&[Step::Key(KEY)]);
        let Some(check) = self.0 else {
            return found.map_or(Ok(()), |_| {
                Err(ConfigError::Syntax {
                    at: at(),
                    message: "this program has no configuration of its own".into(),
                })
            });
        };
        let table = match found.map(|value| (value.span(), value.get_ref())) {
            None => Spanned::new(0..0, DeTable::new()),
            Some((span, DeValue::Table(table))) => Spanned::new(span, table.clone()),
            // That it is none is said by whoever reads the whole.
            Some(_) => return Ok(()),
        };
        check(toml::Deserializer::from(table)).map_err(|error| {
            if found.is_some() && error.span().is_some() {
                return merged.syntax(&error, 0);
            }
            ConfigError::Syntax {
                at: at(),
                message: format!("[{KEY}]: {}", plain(error.message())),
            }
        })
    }
}

/// Two programs' are never compared.
impl PartialEq for Reader {
    fn eq(&self, other: &Self) -> bool {
        self.0.is_some() == other.0.is_some()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reader").field(&self.0.is_some()).finish()
    }
}
