//! A large part of a message is read as plain JSON first (`#[serde(deserialize_with = "whole")]`). serde
//! compiles a type anew for each way in which it comes, and a message with a tag is one of its own: what
//! is as large as a configuration weighs more than all the rest of the message then.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub(super) fn whole<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    from: D,
) -> Result<T, D::Error> {
    serde_json::from_value(Value::deserialize(from)?).map_err(D::Error::custom)
}
