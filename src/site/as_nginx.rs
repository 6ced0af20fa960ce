//! Where a request's path ends: a table of what nginx 1.22's static module answers, and ours beside
//! it.

use std::fs;
use std::os::unix::fs::symlink;

use http::Method;

use super::tests::{ask, context, header};

/// Path, status, and the body or where a redirect leads.
const NGINX: &str = r"
/                            200 top
/a.txt                       200 A
//a.txt                      200 A
///a.txt                     200 A
//                           200 top
/d                           301 /d/
//d                          301 /d/
/d/                          200 D
/d//                         200 D
/d/index.html                200 D
/d//index.html               200 D
/d///b.txt                   200 B
/d/./b.txt                   200 B
/./d/b.txt                   200 B
/d/.                         200 D
/d/./                        200 D
/./                          200 top
/.                           200 top
/d/e/../b.txt                200 B
/d/e/..                      200 D
/d/e/../                     200 D
/d/..                        200 top
/d/../                       200 top
/d/../a.txt                  200 A
/d/../../secret              400
/..                          400
/../                         400
/../a.txt                    400
/../secret                   400
/d/e/../../../secret         400
/d//../a.txt                 200 A
/d//e/../b.txt               200 B
/%2e/a.txt                   200 A
/d/%2e%2e/a.txt              200 A
/d/%2E%2E/a.txt              200 A
/d%2fb.txt                   200 B
/d%2Fb.txt                   200 B
/d%2f                        200 D
/%2fa.txt                    200 A
/%2f%2fa.txt                 200 A
/d%2f..%2fa.txt              200 A
/..%2fsecret                 400
/%2e%2e%2fsecret             400
/%2e%2e/secret               400
/d/%2e%2e/%2e%2e/secret      400
/a%2etxt                     200 A
/%61.txt                     200 A
/a.txt/                      404
/a.txt/x                     404
/a.txt/.                     404
/a.txt/..                    200 top
/a.txt/../a.txt              200 A
/missing                     404
/missing/                    404
/missing/..                  200 top
/missing/../a.txt            200 A
/d/index.html/               404
/empty                       301 /empty/
/empty/                      403
/empty/x                     404
/d/e                         301 /d/e/
/d/e/                        403
/d?q=1                       301 /d/?q=1
/d?q=/../x                   301 /d/?q=/../x
/a.txt?x=1                   200 A
/a.txt?                      200 A
/a.txt%3fx                   404
/q%3Fx.txt                   200 Q
/h%23x.txt                   200 HASH
/a%20b/x.txt                 200 SP
/a%20b                       301 /a%20b/
/a+b.txt                     200 PL
/a%2bb.txt                   200 PL
/100%25.txt                  200 PC
/100%.txt                    400
/%                           400
/%4                          400
/%zz                         400
/%4x                         400
/%00                         400
/a.txt%00                    400
/a.txt%00.html               400
/.%00./secret                400
/d/..%00/secret              400
/%252e%252e/secret           404
/%2541/n.txt                 200 N
/%41/n.txt                   404
/%c3%bc.txt                  200 U
/%c0%ae%c0%ae/secret         404
/%ff                         404
/a.                          200 T
/...                         200 TD
/..a                         200 DD
/.../x                       404
/....//secret                404
/..../                       404
/d/...                       404
/.env                        200 ENV
/%2eenv                      200 ENV
/.well-known/t               200 W
/b\c.txt                     200 BS
/b%5cc.txt                   200 BS
/..\secret                   404
/..%5csecret                 404
/link                        301 /link/
/link/b.txt                  200 B
/link/                       200 D
/dangling                    404
/co:lon                      200 CO
/co%3alon                    200 CO
/;a                          404
/a.txt;v=1                   404
/d;x/                        404
/%0a                         404
/%0d%0aX:1                   404
/%7f                         404
/d/%20                       404
/%2f                         200 top
/%2f/                        200 top
/%2e                         200 top
/%2e%2e                      400
/d/%2e                       200 D
/d/%2e/                      200 D
/d/e/%2e%2e                  200 D
/a.txt%20                    404
/a.txt%2f                    404";

/// Where we answer otherwise, and why.
const OURS: &[(&str, u16, &str)] = &[
    // Names that begin with a dot are not there.
    ("/...", 404, ""),
    ("/..a", 404, ""),
    ("/.env", 404, ""),
    ("/%2eenv", 404, ""),
];

#[tokio::test]
async fn a_path_ends_where_nginx_ends() {
    let dir = tempfile::tempdir().unwrap();
    let www = dir.path().join("www");
    for name in ["d/e", "empty", "a b", "%41", ".well-known"] {
        fs::create_dir_all(www.join(name)).unwrap();
    }
    fs::write(dir.path().join("secret"), "SECRET").unwrap();
    for (name, text) in [
        ("index.html", "top"),
        ("a.txt", "A"),
        ("d/index.html", "D"),
        ("d/b.txt", "B"),
        ("d/e/c.txt", "E"),
        ("a b/x.txt", "SP"),
        ("100%.txt", "PC"),
        ("a+b.txt", "PL"),
        ("ü.txt", "U"),
        ("q?x.txt", "Q"),
        ("h#x.txt", "HASH"),
        ("a.", "T"),
        (".well-known/t", "W"),
        (".env", "ENV"),
        ("..a", "DD"),
        ("...", "TD"),
        ("b\\c.txt", "BS"),
        ("%41/n.txt", "N"),
        ("co:lon", "CO"),
    ] {
        fs::write(www.join(name), text).unwrap();
    }
    symlink("d", www.join("link")).unwrap();
    symlink("nowhere", www.join("dangling")).unwrap();
    let site = super::router(&context(Some(www)));

    let mut bad = Vec::new();
    for line in NGINX.lines().filter(|line| !line.is_empty()) {
        let mut columns = line.split_whitespace();
        let path = columns.next().unwrap();
        let status: u16 = columns.next().unwrap().parse().unwrap();
        let nginx = (status, columns.next().unwrap_or(""));
        let other = OURS.iter().find(|(other, ..)| *other == path);
        let expected = other.map_or(nginx, |(_, status, what)| (*status, *what));
        let answer = ask(&site, Method::GET, path, &[]).await;
        let what = match answer.status().as_u16() {
            200 => answer.body().as_str(),
            _ => header(&answer, "location"),
        };
        let got = (answer.status().as_u16(), what);
        if got != expected {
            bad.push(format!("{path}: {got:?} and not {expected:?}"));
        }
        assert!(
            other.is_none() || nginx != expected,
            "{path} is no exception"
        );
    }
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}
