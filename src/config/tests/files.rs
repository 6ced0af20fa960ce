//! Which files count, and which has the last word.

use super::*;

#[test]
fn without_files_the_defaults_hold() {
    let loaded = Etc::new().load(&sources()).unwrap();
    assert_eq!(loaded.config, sources().defaults);
    assert_eq!((loaded.path, loaded.files), (None, vec![]));
}

#[test]
fn every_key_of_the_documented_file_is_known_and_its_values_are_the_defaults() {
    // Every key of explained.toml, less the root, which would have to exist.
    let text = r#"
        name = "handover"
        workers = "auto"
        [[listener]]
        name = "http"
        address = "127.0.0.1:8080"
        [site]
        [http]
        header_timeout = "30s"
        body_timeout = "60s"
        send_timeout = "60s"
        keepalive_timeout = "75s"
        max_connections = 0
        http2 = true
        max_streams = 128
        [upgrade]
        start_timeout = "30s"
        probation = "60s"
        [drain]
        timeout = "10m"
        stop_timeout = "8s"
        pass_connections = true
        generations = 8
        [log]
        level = "info"
        access = "off"
        [control]
        group = ""
        [metrics]
        address = ""
    "#;
    let expected = Config {
        name: "handover".into(),
        ..sources().defaults
    };
    assert_eq!(Etc::new().file("web.toml", text).config(), expected);
}

#[test]
fn fragments_are_laid_over_the_file_in_the_order_of_their_names() {
    let etc = Etc::new()
        .file("web.toml", "workers = 2\n[http]\nmax_connections = 5\n")
        .file("conf.d/20-b.toml", "workers = 4\n")
        .file(
            "conf.d/10-a.toml",
            "workers = 3\nhttp.header_timeout = '1m'\n",
        )
        .file("conf.d/.hidden.toml", "no toml")
        .file("conf.d/30.toml.bak", "no toml");
    let loaded = etc.load(&sources()).unwrap();
    assert_eq!(loaded.config.workers, Workers::Count(4));
    assert_eq!(loaded.config.http.max_connections, 5);
    assert_eq!(loaded.config.http.header_timeout, Duration::from_secs(60));
    assert_eq!(loaded.path, Some(etc.path("web.toml")));
    let files = ["web.toml", "conf.d/10-a.toml", "conf.d/20-b.toml"];
    assert_eq!(loaded.files, files.map(|f| etc.path(f)));
}

#[test]
fn however_the_directory_lists_them() {
    let names: Vec<String> = (10..60).map(|n| format!("conf.d/{n}.toml")).collect();
    let etc = names
        .iter()
        .rev()
        .fold(Etc::new(), |etc, name| etc.file(name, ""));
    let expected: Vec<_> = names.iter().map(|name| etc.path(name)).collect();
    assert_eq!(etc.load(&sources()).unwrap().files, expected);
}

#[test]
fn a_fragment_alone_is_enough() {
    let etc = Etc::new().file("conf.d/x.toml", "workers = 3");
    let loaded = etc.load(&sources()).unwrap();
    assert_eq!(loaded.config.workers, Workers::Count(3));
    assert_eq!(loaded.path, Some(etc.path("conf.d/x.toml")));
}

#[test]
fn listeners_of_a_file_replace_the_programs_own_and_an_empty_list_does_not() {
    let config = Etc::new()
        .file("web.toml", "[[listener]]\nname = 'admin'\n")
        .config();
    let names: Vec<_> = config.listeners.iter().map(|l| &l.name).collect();
    assert_eq!(names, ["admin"]);
    assert_eq!(config.listeners[0].address, None);
    let config = Etc::new().file("web.toml", "listener = []").config();
    assert_eq!(config.listeners, sources().defaults.listeners);
}

#[test]
fn a_fragments_listener_changes_the_one_of_its_name_field_by_field_or_is_one_more() {
    let config = Etc::new()
        .file(
            "web.toml",
            "[[listener]]\nname = 'a'\naddress = 'unix:/run/a'\nmode = '0660'\n\
             [[listener]]\nname = 'b'\naddress = '[::]:80'\n",
        )
        .file(
            "conf.d/1.toml",
            "[[listener]]\nname = 'c'\n[[listener]]\nname = 'a'\nmode = '0600'\n",
        )
        .config();
    let a = ListenerConfig {
        mode: Some("0600".into()),
        ..listener("a", "unix:/run/a")
    };
    let c = ListenerConfig {
        address: None,
        ..listener("c", "")
    };
    assert_eq!(config.listeners, [a, listener("b", "[::]:80"), c]);
}

#[test]
fn a_name_with_several_sockets_is_replaced_as_a_whole() {
    let two = "[[listener]]\nname = 'a'\naddress = '0.0.0.0:80'\n\
               [[listener]]\nname = 'a'\naddress = '[::1]:80'\n";
    let one = "[[listener]]\nname = 'a'\naddress = '[::]:80'\n";
    let etc = Etc::new().file("web.toml", two).file("conf.d/1.toml", one);
    assert_eq!(etc.config().listeners, [listener("a", "[::]:80")]);
    let etc = Etc::new().file("web.toml", one).file("conf.d/1.toml", two);
    let both = [listener("a", "0.0.0.0:80"), listener("a", "[::1]:80")];
    assert_eq!(etc.config().listeners, both);
}

#[test]
fn the_command_line_has_the_last_word() {
    let etc = Etc::new().file(
        "web.toml",
        "workers = 2\n[[listener]]\nname = 'a'\n[[listener]]\nname = 'b'\n",
    );
    let overrides = Overrides {
        listen: vec!["[::]:80".into(), "unix:/run/x".into()],
        root: Some(etc.path("conf.d")),
        workers: Some(Workers::Count(7)),
        ..Overrides::default()
    };
    let loaded = etc.load(&Sources {
        overrides,
        ..sources()
    });
    let config = loaded.unwrap().config;
    assert_eq!(config.workers, Workers::Count(7));
    assert_eq!(config.site.root, Some(etc.path("conf.d")));
    let expected = [listener("http", "[::]:80"), listener("http", "unix:/run/x")];
    assert_eq!(config.listeners, expected);
}

#[test]
fn an_instance_has_a_file_among_those_of_its_template() {
    let etc = Etc::new()
        .file("web.toml", "workers = 1")
        .file("conf.d/1.toml", "workers = 2")
        .file("blog.toml", "[http]\nmax_connections = 3")
        .file("blog.d/1.toml", "workers = 4");
    let mut sources = Sources::default();
    sources.overrides.name = Some("web@blog".into());
    let loaded = etc.load(&sources).unwrap();
    assert_eq!(loaded.config.name, "web@blog");
    assert_eq!(loaded.config.http.max_connections, 3);
    assert_eq!(loaded.config.workers, Workers::Count(4));
    assert_eq!(
        loaded.files,
        [etc.path("blog.toml"), etc.path("blog.d/1.toml")]
    );
}

#[test]
fn the_name_of_the_command_line_finds_the_file() {
    let etc = Etc::new().file("web.toml", "workers = 2");
    let mut sources = Sources::default();
    assert_eq!(etc.load(&sources).unwrap().config.name, "handover");
    sources.overrides.name = Some("web".into());
    let config = etc.load(&sources).unwrap().config;
    assert_eq!(
        (config.name.as_str(), config.workers),
        ("web", Workers::Count(2))
    );
    sources.overrides.name = Some("../web".into());
    assert!(
        etc.error(&sources)
            .starts_with("--name: `name`: \"../web\" cannot be the name")
    );
}

#[test]
fn a_named_file_must_exist_and_has_its_own_fragments() {
    let etc = Etc::new().file("conf.d/a.toml", "threads = 2");
    let mut sources = sources();
    sources.explicit = Some(etc.path("other.toml"));
    assert_eq!(
        etc.error(&sources),
        "cannot read /etc/web/other.toml: No such file or directory (os error 2)"
    );
    let etc = etc.file("other.toml", "workers = 2");
    let config = etc.load(&sources).unwrap().config;
    assert_eq!((config.threads, config.workers), (2, Workers::Count(2)));
}

#[test]
fn relative_paths_are_beside_the_file_that_says_them() {
    let etc = Etc::new()
        .file("web.toml", "site.root = 'nowhere'\nlog.access = 'log'")
        .file("conf.d/a.toml", "site.root = '.'");
    let config = etc.config();
    assert_eq!(config.site.root, Some(etc.path("conf.d/.")));
    assert_eq!(Path::new(&config.log.access), etc.path("log"));
}

#[test]
fn sources_tell_whether_the_disk_still_says_what_runs() {
    let etc = Etc::new().file("x.toml", "workers = 2");
    let mut sources = sources();
    sources.explicit = Some(etc.path("x.toml"));
    sources.overrides.workers = Some(Workers::Count(9));
    let running = sources.load().unwrap().config;
    assert!(sources.matches(&running));
    let etc = etc.file("x.toml", "workers = 3 # the flag wins");
    assert!(sources.matches(&running));
    let etc = etc.file("x.toml", "threads = 3");
    assert!(!sources.matches(&running));
    etc.file("x.toml", "[");
    assert!(!sources.matches(&running));
}

#[test]
fn a_redirect_goes_where_clients_find_tls() {
    let redirect = |value: &str| {
        let text = format!("name = \"http\"\nredirect = {value}\n");
        toml::from_str::<ListenerConfig>(&text).map(|listener| listener.redirect)
    };
    let https = |port| Ok(Some(Redirect::Https { port }));
    assert_eq!(redirect("\"https\""), https(None));
    assert_eq!(redirect("\"https:8443\""), https(Some(8443)));
    for wrong in ["http", "https:", "https:0", "https:x", "https:70000"] {
        let error = redirect(&format!("\"{wrong}\"")).unwrap_err();
        assert!(error.to_string().contains("https:PORT"), "{error}");
    }
    for port in [None, Some(8443)] {
        let text = String::from(Redirect::Https { port });
        assert_eq!(Redirect::try_from(text), Ok(Redirect::Https { port }));
    }
    let port = |addresses: &[&str]| {
        let listeners = addresses.iter().map(|address| ListenerConfig {
            tls: true,
            ..ListenerConfig::new("https", Some(address))
        });
        let config = Config {
            listeners: listeners.collect(),
            ..Config::default()
        };
        config.https_port()
    };
    assert_eq!(port(&["[::]:8443"]), Some(8443));
    assert_eq!(port(&["127.0.0.1:9443", "[::]:443"]), Some(443));
    assert_eq!(port(&["127.0.0.1:0", "unix:/run/x"]), None);
}

#[test]
fn a_redirect_needs_somewhere_to_go() {
    let main = "[[listener]]\nname = \"http\"\naddress = \"[::]:80\"\nredirect = \"https\"\n";
    let error = Etc::new().file("web.toml", main).error(&sources());
    assert!(error.contains("no listener with `tls = true`"), "{error}");
}
