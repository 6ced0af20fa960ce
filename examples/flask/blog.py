import os

from flask import Flask

app = Flask(__name__)
RELEASE = os.path.basename(os.getcwd())


@app.get("/")
def index():
    return f"Flask on gunicorn, release {RELEASE}\n"


@app.get("/healthz")
def healthz():
    return "ok\n"
