import asyncio
import os

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

app = FastAPI()
RELEASE = os.path.basename(os.getcwd())


@app.get("/")
async def index():
    return {"server": "FastAPI on uvicorn", "release": RELEASE}


@app.get("/healthz")
async def healthz():
    return "ok"


@app.get("/events")
async def events():
    async def ticks():
        for number in range(10):
            yield f"data: {number}\n\n"
            await asyncio.sleep(1)

    return StreamingResponse(ticks(), media_type="text/event-stream")


@app.websocket("/echo")
async def echo(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass
