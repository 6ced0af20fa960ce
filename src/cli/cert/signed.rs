//! A certificate that signs itself.

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

/// As long as a real one.
const DAYS: i64 = 90;

/// Certificate and key in PEM.
pub(super) fn self_signed(names: &[String], now: Timestamp) -> Result<(String, String), String> {
    made(names, now).map_err(|e| e.to_string())
}

fn made(names: &[String], now: Timestamp) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    let part = |n: i8| u8::try_from(n).unwrap_or(1);
    let day = |date: Date| {
        let year = i32::from(date.year());
        rcgen::date_time_ymd(year, part(date.month()), part(date.day()))
    };
    let today = now.to_zoned(TimeZone::UTC).date();
    params.not_before = day(today);
    params.not_after = day(today.saturating_add(DAYS.days()));
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, names.first().map_or("localhost", |n| n));
    params.distinguished_name = name;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}
