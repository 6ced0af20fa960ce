//! The applications of `examples/`, and what people do wrong with a release of one.

use std::path::{Path, PathBuf};

/// One of `examples/`.
#[derive(Debug, Clone, Copy)]
pub struct Example {
    pub name: &'static str,
    /// The file that starts it.
    pub main: &'static str,
    faults: [(&'static str, &'static str, &'static str); 5],
}

/// A release that must be refused.
#[derive(Debug)]
pub struct Fault {
    pub name: &'static str,
    /// Its main file.
    pub source: String,
    /// What is said of it.
    pub says: &'static str,
}

/// A release's last fault.
const SLOW: &str = "slow";

/// What is put before the main file; `PORT` is taken.
const PYTHON: [(&str, &str, &str); 5] = [
    ("syntax", "def (\n", "SyntaxError"),
    ("import", "from os import no_such_name\n", "ImportError"),
    (
        "dependency",
        "import no_such_package\n",
        "ModuleNotFoundError",
    ),
    (
        "port",
        "import socket\nTAKEN = socket.create_server((\"127.0.0.1\", PORT))\n",
        "Address already in use",
    ),
    (
        SLOW,
        "import time\ntime.sleep(3600)\n",
        "was not ready within",
    ),
];

const NODE: [(&str, &str, &str); 5] = [
    ("syntax", "import, require (\n", "SyntaxError"),
    (
        "import",
        "require(\"./no-such-file\");\n",
        "Cannot find module './no-such-file'",
    ),
    (
        "dependency",
        "require(\"no-such-package\");\n",
        "Cannot find module 'no-such-package'",
    ),
    (
        "port",
        "require(\"net\").createServer().listen(PORT, \"127.0.0.1\");\n",
        "EADDRINUSE",
    ),
    (
        SLOW,
        "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);\n",
        "was not ready within",
    ),
];

const RUBY: [(&str, &str, &str); 5] = [
    ("syntax", "def (\n", "SyntaxError"),
    ("import", "NoSuchConstant\n", "uninitialized constant"),
    (
        "dependency",
        "require \"no_such_gem\"\n",
        "cannot load such file",
    ),
    (
        "port",
        "require \"socket\"\nTAKEN = TCPServer.new(\"127.0.0.1\", PORT)\n",
        "Address already in use",
    ),
    (SLOW, "sleep\n", "was not ready within"),
];

pub const FLASK: Example = Example {
    name: "flask",
    main: "blog.py",
    faults: PYTHON,
};
pub const FASTAPI: Example = Example {
    name: "fastapi",
    main: "api.py",
    faults: PYTHON,
};
pub const EXPRESS: Example = Example {
    name: "express",
    main: "server.js",
    faults: NODE,
};
pub const SINATRA: Example = Example {
    name: "sinatra",
    main: "config.ru",
    faults: RUBY,
};

impl Fault {
    /// The `start_timeout` that it is given: nobody waits for long. `usually`: for what ends by itself.
    pub fn patience(&self, usually: &'static str) -> &'static str {
        if self.name == SLOW { "3s" } else { usually }
    }
}

impl Example {
    /// Where it is in this repository.
    pub fn directory(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples")
            .join(self.name)
    }

    /// A file of it.
    pub fn text(&self, file: &str) -> String {
        let path = self.directory().join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Its configuration, with the release at `directory`.
    pub fn config(&self, directory: &Path) -> String {
        let text = self.text("handover.toml");
        let here = "directory = \".\"";
        assert!(text.contains(here), "{text}");
        text.replace(here, &format!("directory = {directory:?}"))
    }

    /// What must be refused, when somebody listens on this port of 127.0.0.1.
    pub fn faults(&self, taken: u16) -> impl Iterator<Item = Fault> {
        let main = self.text(self.main);
        self.faults
            .into_iter()
            .map(move |(name, before, says)| Fault {
                name,
                source: before.replace("PORT", &taken.to_string()) + &main,
                says,
            })
    }
}
