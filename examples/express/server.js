const path = require("path");
const express = require("express");

const app = express();
const release = path.basename(process.cwd());

// We are the only one who can reach this port or socket.
app.set("trust proxy", true);
app.get("/", (_, response) => response.send(`Express on node, release ${release}\n`));
app.get("/healthz", (_, response) => response.send("ok\n"));

// node drops requests on TERM unless it is told not to. The workers have none left by then.
const server = app.listen(process.argv[2] || process.env.PORT);
server.keepAliveTimeout = 75_000;
process.on("SIGTERM", () => server.close(() => process.exit(0)));
