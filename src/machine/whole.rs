//! A large part of a message is read as a JSON value first (`#[serde(deserialize_with = "whole")]`). For a
//! type inside of a tagged enum serde makes a second reader; for a configuration that is more code than for
//! all the rest of the message. A value is read by the reader that is there anyway.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub(super) fn whole<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    from: D,
) -> Result<T, D::Error> {
    serde_json::from_value(Value::deserialize(from)?).map_err(D::Error::custom)
}
