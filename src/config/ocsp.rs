//! The answer of OCSP that lies beside a certificate (RFC 6960), which clients are shown with it. To those
//! that look at it a bad one is worse than none: only one that says "good" of this certificate is used,
//! while it does. Whatever is wrong with it costs no certificate.

use std::io::{self, Read as _};
use std::path::Path;

use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_ocsp::{BasicOcspResponse, CertStatus, OcspResponse, OcspResponseStatus};

use super::env_file::open_file;
use super::tls::Staple;

/// Clients take less than this.
const MOST: u64 = 16 * 1024;

/// What is in the file, for the certificate `own` (DER); `None`: there is no such file. The error ends a
/// sentence about it.
pub(super) fn read(file: &Path, own: &[u8]) -> Result<Option<Staple>, String> {
    let opened = match open_file(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|e| e.to_string())?,
    };
    let mut answer = Vec::new();
    let read = opened.take(MOST + 1).read_to_end(&mut answer);
    if read.map_err(|e| e.to_string())? as u64 > MOST {
        return Err("it is too long".into());
    }
    let until = good_until(&answer, own)?;
    Ok(Some(Staple { answer, until }))
}

fn good_until(answer: &[u8], own: &[u8]) -> Result<u64, String> {
    let whole = OcspResponse::from_der(answer).map_err(|e| format!("it is none in DER: {e}"))?;
    let bytes = match (whole.response_status, &whole.response_bytes) {
        (OcspResponseStatus::Successful, Some(bytes)) => bytes,
        (status, _) => return Err(format!("the authority gave none: {status:?}")),
    };
    let basic = BasicOcspResponse::from_der(bytes.response.as_bytes())
        .map_err(|e| format!("it cannot be understood: {e}"))?;
    let own = Certificate::from_der(own).map_err(|e| e.to_string())?;
    let serial = own.tbs_certificate.serial_number;
    let about = |one: &&x509_ocsp::SingleResponse| one.cert_id.serial_number == serial;
    let one = basic.tbs_response_data.responses.iter().find(about);
    let one = one.ok_or("it is about another certificate")?;
    match one.cert_status {
        CertStatus::Good(_) => {}
        CertStatus::Revoked(_) => return Err("it says that the certificate is revoked".into()),
        CertStatus::Unknown(_) => return Err("its authority does not know the certificate".into()),
    }
    let until = one
        .next_update
        .ok_or("it does not say until when it is good")?;
    Ok(until.0.to_unix_duration().as_secs())
}

#[cfg(test)]
pub(super) mod tests {
    use x509_cert::der::asn1::{BitString, GeneralizedTime, Null, OctetString};
    use x509_cert::der::{DateTime, Encode as _};
    use x509_cert::spki::AlgorithmIdentifierOwned;
    use x509_ocsp::{
        CertId, OcspGeneralizedTime, ResponderId, ResponseData, SingleResponse, Version,
    };

    use super::*;

    /// An answer about a certificate; its signature is none (clients check that, we do not).
    pub(in crate::config) fn answer(own: &[u8], status: CertStatus, until: u64) -> Vec<u8> {
        let own = Certificate::from_der(own).unwrap().tbs_certificate;
        let time = |seconds| {
            let time = DateTime::from_unix_duration(std::time::Duration::from_secs(seconds));
            OcspGeneralizedTime(GeneralizedTime::from_date_time(time.unwrap()))
        };
        let algorithm = AlgorithmIdentifierOwned {
            oid: "1.3.14.3.2.26".parse().unwrap(),
            parameters: None,
        };
        let nothing = || OctetString::new([0; 20]).unwrap();
        let single = SingleResponse {
            cert_id: CertId {
                hash_algorithm: algorithm.clone(),
                issuer_name_hash: nothing(),
                issuer_key_hash: nothing(),
                serial_number: own.serial_number,
            },
            cert_status: status,
            this_update: time(1),
            next_update: Some(time(until)),
            single_extensions: None,
        };
        let data = ResponseData {
            version: Version::V1,
            responder_id: ResponderId::ByKey(nothing()),
            produced_at: time(1),
            responses: vec![single],
            response_extensions: None,
        };
        let basic = BasicOcspResponse {
            tbs_response_data: data,
            signature_algorithm: algorithm,
            signature: BitString::from_bytes(&[0]).unwrap(),
            certs: None,
        };
        OcspResponse::successful(basic).unwrap().to_der().unwrap()
    }

    fn certificate(name: &str) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn only_a_good_answer_about_this_certificate_is_used() {
        let (own, other) = (certificate("a.example"), certificate("b.example"));
        let good = answer(&own, CertStatus::good(), 4_000_000_000);
        assert_eq!(good_until(&good, &own), Ok(4_000_000_000));
        let says = |answer: &[u8], words: &str| {
            let error = good_until(answer, &own).unwrap_err();
            assert!(error.contains(words), "{error}");
        };
        says(
            &answer(&other, CertStatus::good(), 5),
            "another certificate",
        );
        says(&answer(&own, CertStatus::Unknown(Null), 5), "does not know");
        says(&OcspResponse::try_later().to_der().unwrap(), "TryLater");
        says(b"<html>503</html>", "none in DER");
        says(&good[..good.len() / 2], "none in DER");
        says(b"", "none in DER");
    }
}
