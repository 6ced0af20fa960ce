//! Certificates, keys and authorities.

use super::*;

/// A directory for certificates, and a configuration that names it.
struct TlsFiles(TempDir);

impl TlsFiles {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        fs::write(self.0.path().join(name), text).unwrap();
        self
    }

    /// The error, without the directory's name; empty when there is none.
    fn refused(&self) -> String {
        let whole = |loaded: Loaded| loaded.config.tls.identities.unwrap().are_whole();
        self.load()
            .and_then(whole)
            .err()
            .map_or_else(String::new, |e| {
                e.to_string()
                    .replace(self.0.path().to_str().unwrap(), "/tls")
            })
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        let config = self.0.path().join("web.toml");
        let text = "[[listener]]\nname = \"https\"\naddress = \"[::]:443\"\ntls = true\n\
                    [tls]\ndirectory = \".\"\n";
        fs::write(&config, text).unwrap();
        Config::load(Some(&config), "web", Config::default())
    }
}

fn certificate(names: &[&str]) -> (rcgen::Certificate, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
    let params = rcgen::CertificateParams::new(names).unwrap();
    (params.self_signed(&key).unwrap(), key)
}

#[test]
fn a_certificate_and_its_key_are_found_by_their_names() {
    let (files, (certificate, key)) = (TlsFiles::new(), certificate(&["a.example", "*.b.example"]));
    files
        .write("a.crt", &certificate.pem())
        .write("a.key", &key.serialize_pem())
        .write("README", "not a certificate");
    let tls = files.load().unwrap().config.tls;
    let identities = tls.identities.as_ref().unwrap();
    assert_eq!(identities.list[0].names, ["a.example", "*.b.example"]);
    let shown = format!("{tls:?}");
    assert!(shown.contains("SecretBytes(..)"), "{shown}");
}

#[test]
fn a_listener_that_speaks_tls_without_a_certificate_is_shown() {
    let text = "[[listener]]\nname = \"https\"\naddress = \"[::]:443\"\ntls = true\n";
    let error = Etc::new().file("web.toml", text).error(&sources());
    let words = ":4:7: `listener.tls`: a listener has `tls = true`, but there is no certificate";
    assert!(error.contains(words), "{error}");
}

#[test]
fn a_bad_certificate_is_refused_with_what_is_wrong_with_it() {
    let (one, key) = certificate(&["a.example"]);
    let (other, other_key) = certificate(&["b.example"]);
    let (one, key) = (one.pem(), key.serialize_pem());
    for (crt, key, wrong) in [
        (
            &*one,
            &*other_key.serialize_pem(),
            "is not the one of the certificate",
        ),
        ("", &*key, "holds no certificate in PEM"),
        (&*one, "", "there is no BEGIN PRIVATE KEY"),
        (
            &*one,
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
            "it is encrypted",
        ),
        (
            &*format!("{one}{}", other.pem()),
            &*key,
            "number 2 signed none of the others",
        ),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &*key,
            "understood",
        ),
    ] {
        let files = TlsFiles::new();
        files.write("a.crt", crt).write("a.key", key);
        let refused = files.refused();
        assert!(refused.contains(wrong), "{wrong}: {refused}");
        assert!(refused.contains("`tls.directory`"), "{refused}");
    }
    let files = TlsFiles::new();
    assert!(files.refused().contains("holds no certificate"));
    files.write("a.crt", &one);
    assert!(
        files.refused().contains("has no /tls/a.key beside it"),
        "{}",
        files.refused()
    );
    fs::create_dir(files.0.path().join("a.key")).unwrap();
    assert!(
        files.refused().contains("it is not a file"),
        "{}",
        files.refused()
    );
}

/// Two certificates, and what becomes of them when the files are bad.
#[test]
fn what_can_be_used_is_used_and_what_cannot_comes_from_the_generation_before() {
    let files = TlsFiles::new();
    for name in ["a", "b"] {
        let (certificate, key) = certificate(&[&format!("{name}.example")]);
        files.write(&format!("{name}.crt"), &certificate.pem());
        files.write(&format!("{name}.key"), &key.serialize_pem());
    }
    let identities = |config: &Config| config.tls.identities.as_deref().unwrap().clone();
    let names = |config: &Config| -> Vec<String> {
        let list = identities(config).list;
        list.into_iter().flat_map(|one| one.names).collect()
    };
    let before = identities(&files.load().unwrap().config);
    files.write("a.key", "nothing");
    let load = |before| {
        let mut config = files.load().unwrap().config;
        config.make_do_with_certificates(before, SystemTime::now());
        config
    };
    assert_eq!(names(&load(None)), ["b.example"]);
    assert_eq!(names(&load(Some(&before))), ["b.example", "a.example"]);
    // Half of a pair costs that pair alone.
    fs::remove_file(files.0.path().join("a.key")).unwrap();
    assert_eq!(names(&load(None)), ["b.example"]);
    for file in ["a.crt", "b.crt", "b.key"] {
        fs::remove_file(files.0.path().join(file)).unwrap();
    }
    assert_eq!(names(&load(None)), [""; 0]);
    assert_eq!(names(&load(Some(&before))), ["a.example", "b.example"]);
}

/// A reload refuses it; an upgrade must not take it up instead.
#[test]
fn what_has_expired_takes_the_place_of_nothing_that_is_good() {
    let files = TlsFiles::new();
    let write = |not_after| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.not_after = not_after;
        let certificate = params.self_signed(&key).unwrap();
        files
            .write("a.crt", &certificate.pem())
            .write("a.key", &key.serialize_pem());
    };
    let load = |before: Option<&Identities>| {
        let mut config = files.load().unwrap().config;
        config.make_do_with_certificates(before, SystemTime::now());
        (*config.tls.identities.unwrap()).clone()
    };
    write(rcgen::date_time_ymd(4000, 1, 1));
    let (other, key) = certificate(&["b.example"]);
    files
        .write("b.crt", &other.pem())
        .write("b.key", &key.serialize_pem());
    let good = load(None);
    assert_eq!(good.list.len(), 2);
    write(rcgen::date_time_ymd(2020, 1, 1));
    let after = load(Some(&good));
    // In the same order: clients that name none get the first.
    assert_eq!(after.list, good.list);
    assert!(
        after
            .are_whole()
            .unwrap_err()
            .to_string()
            .contains("expired on 2020-01-01")
    );
    // Nobody has a better one.
    let alone = load(None);
    assert_ne!(alone.list, good.list);
    assert_eq!(load(Some(&alone)).list, alone.list);
}

#[test]
fn without_the_authorities_of_clients_nobody_is_served() {
    let files = TlsFiles::new();
    let (own, key) = certificate(&["a.example"]);
    files
        .write("a.crt", &own.pem())
        .write("a.key", &key.serialize_pem());
    let mut config = files.load().unwrap().config;
    config.tls.client_ca = Some(files.0.path().join("missing.pem"));
    config.read_certificates();
    let mut alone = config.clone();
    alone.make_do_with_certificates(None, SystemTime::now());
    let alone = alone.tls.identities.unwrap();
    assert!(alone.list.is_empty() && alone.client_ca.is_empty());
    assert!(alone.are_whole().is_err());
    let before = Identities {
        client_ca: vec![own.der().to_vec()],
        ..Identities::default()
    };
    config.make_do_with_certificates(Some(&before), SystemTime::now());
    let after = config.tls.identities.unwrap();
    assert_eq!(after.client_ca, before.client_ca);
    assert_eq!(after.list.len(), 1);
}

#[test]
fn a_key_that_everybody_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let (files, (certificate, key)) = (TlsFiles::new(), certificate(&["a.example"]));
    files
        .write("a.crt", &certificate.pem())
        .write("a.key", &key.serialize_pem());
    let warnings = |mode| {
        let file = files.0.path().join("a.key");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let identities = files.load().unwrap().config.tls.identities.unwrap();
        identities.doubts(SystemTime::now()).collect::<Vec<_>>()
    };
    assert_eq!(warnings(0o640), [""; 0]);
    let [warning] = &warnings(0o644)[..] else {
        panic!("one warning");
    };
    assert!(warning.contains("a.key: `chmod o-rwx "), "{warning}");
}

#[test]
fn a_certificate_that_promises_an_answer_of_ocsp_is_served_with_the_one_beside_it() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
    // `status_request` (RFC 7633, 6).
    let feature = [0x30, 3, 2, 1, 5].to_vec();
    let feature = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], feature);
    params.custom_extensions.push(feature);
    let certificate = params.self_signed(&key).unwrap();
    let files = TlsFiles::new();
    files
        .write("a.crt", &certificate.pem())
        .write("a.key", &key.serialize_pem());
    let load = || files.load().unwrap().config.tls.identities.unwrap();
    let said = || -> Vec<String> {
        let loaded = load();
        let said = loaded.doubts(SystemTime::now());
        said.filter(|one| one.contains("OCSP")).collect()
    };
    let is_said = |words: &str| {
        let said = said();
        assert!(said.len() == 1 && said[0].contains(words), "{said:?}");
    };
    is_said("/a.ocsp, then reload");
    let path = files.0.path().join("a.ocsp");
    let good =
        |until| super::ocsp::tests::answer(certificate.der(), x509_ocsp::CertStatus::good(), until);
    fs::write(&path, good(4_000_000_000)).unwrap();
    assert_eq!(said(), [""; 0]);
    let staple = load().list[0].ocsp.clone().unwrap();
    assert_eq!(
        (staple.answer, staple.until),
        (good(4_000_000_000), 4_000_000_000)
    );
    fs::write(&path, good(1_000_000_000)).unwrap();
    is_said("a.ocsp is not shown: it has expired");
    // The certificate is served without it.
    fs::write(&path, "an answer").unwrap();
    is_said("a.ocsp is not shown: it is none in DER");
    assert_eq!(load().list[0].ocsp, None);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    is_said("a.ocsp is not shown: it is not a file");
}

#[test]
fn dates_are_looked_at_when_a_person_asks() {
    let (files, (certificate, key)) = (TlsFiles::new(), certificate(&["a.example"]));
    files
        .write("a.crt", &certificate.pem())
        .write("a.key", &key.serialize_pem());
    let tls = files.load().unwrap().config.tls;
    let mut identities = (**tls.identities.as_ref().unwrap()).clone();
    let identity = &mut identities.list[0];
    (identity.not_before, identity.not_after) = (1_000_000, 1_000_600);
    let at = |seconds| std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let check = |seconds| {
        identities
            .check_dates(at(seconds), None)
            .map_err(|e| e.to_string())
    };
    assert!(
        check(999_999)
            .unwrap_err()
            .contains("is not valid before 1970-01-12")
    );
    assert_eq!(check(1_000_000), Ok(()));
    assert_eq!(check(1_000_600), Ok(()));
    assert!(
        check(1_000_601)
            .unwrap_err()
            .contains("expired on 1970-01-12")
    );
    let serving = Some(&identities);
    assert_eq!(identities.check_dates(at(1_000_601), serving), Ok(()));
    let identity = &identities.list[0];
    assert!(!identity.is_due(at(1_000_500)));
    assert!(
        identity.is_due(at(1_000_501)),
        "a sixth of its life is left"
    );
    assert!(identity.is_due(at(2_000_000)));
    // Of ten years.
    let day = 24 * 60 * 60;
    let identity = &mut identities.list[0];
    identity.not_after = identity.not_before + 3650 * day;
    let (identity, days_before) = (&identities.list[0], |days: u64| {
        at(1_000_000 + (3650 - days) * day)
    });
    assert!(!identity.is_due(days_before(31_u64)) && identity.is_due(days_before(29)));
}

/// An authority with this name, in this kind of string, and who signs with its key.
fn authority(name: rcgen::DnValue) -> (rcgen::Certificate, rcgen::Issuer<'static, rcgen::KeyPair>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let certificate = params.self_signed(&key).unwrap();
    (certificate, rcgen::Issuer::new(params, key))
}

/// Behind the server's own certificate there may be two ways to two authorities (RFC 8446, 4.4.2), and what
/// an old authority calls itself may be another kind of string than in what it signs.
#[test]
fn a_chain_may_have_more_than_one_end_and_names_are_compared_as_text() {
    let printed = |name: &str| rcgen::DnValue::PrintableString(name.try_into().unwrap());
    let (root, root_signs) = authority(printed("root"));
    let (other, other_signs) = authority(printed("other"));
    let (own, key) = {
        let mut issuer = rcgen::CertificateParams::default();
        issuer.distinguished_name = rcgen::DistinguishedName::new();
        let name = rcgen::DnValue::Utf8String("root".into());
        issuer
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let issuer = rcgen::Issuer::new(issuer, root_signs.key());
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
        (params.signed_by(&key, &issuer).unwrap(), key)
    };
    // The root as the other one has signed it.
    let cross = {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = printed("root");
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.signed_by(root_signs.key(), &other_signs).unwrap()
    };
    let files = TlsFiles::new();
    files.write("a.key", &key.serialize_pem());
    let (stranger, _) = certificate(&["a.example"]);
    for (chain, good) in [
        (vec![&own, &root], true),
        (vec![&own, &cross, &root], true),
        (vec![&own, &root, &cross], true),
        (vec![&own, &other, &cross], true),
        (vec![&own, &own, &root, &root], true),
        (vec![&own, &stranger], false),
        (vec![&own, &root, &stranger], false),
        (vec![&own, &other, &root], false),
    ] {
        files.write(
            "a.crt",
            &chain.iter().map(|one| one.pem()).collect::<String>(),
        );
        let loaded = files.load().unwrap().config.tls.identities.unwrap();
        let shown = loaded.are_whole().map_err(|e| e.to_string());
        assert_eq!(shown.is_ok(), good, "{shown:?}");
        assert!(good || shown.unwrap_err().contains("out of order"));
    }
}

#[test]
fn a_certificate_may_name_a_service_by_uri_and_an_editors_file_is_none() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let uri = "spiffe://example/service".try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    let certificate = params.self_signed(&key).unwrap();
    let files = TlsFiles::new();
    files
        .write("a.crt", &certificate.pem())
        .write("a.key", &key.serialize_pem())
        .write(".#a.crt", "half of one");
    let identities = files.load().unwrap().config.tls.identities.unwrap();
    identities.are_whole().unwrap();
    assert_eq!(
        (identities.list.len(), identities.list[0].names.len()),
        (1, 0)
    );
}
