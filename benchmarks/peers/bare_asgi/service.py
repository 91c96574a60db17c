"""An ASGI app that reads the body and answers with a constant; no parsing, no model, no features."""

ANSWER = b'{"customer_id":42,"churn_probability":0.34963834285736084,"model_version":"1","features":"store"}'
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())],
}
BODY = {"type": "http.response.body", "body": ANSWER}


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    while (await receive()).get("more_body"):
        pass
    await send(START)
    await send(BODY)
