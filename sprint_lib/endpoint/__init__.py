"""SPRINT as an endpoint: an OpenAI-compatible HTTP server in front of any engine (`sprint serve`).

A client asks a question and gets an answer, as from any model; behind it planner and executors run by the loop. What
streams is the text of the final answer, as it is written; plans and executions are no answer, and a client that wants
them asks for `stream_options: {"include_stages": true}` or fetches `/v1/trajectories/ID` with the ID of the response.
`NAME` is SPRINT, `NAME/sequential` the baseline, one completion. What a request asks for is honoured or refused, never
ignored. `requests` reads what a client asks, `desk` holds the models and solves, `teller` shows what their calls write,
`server` speaks HTTP.
"""
