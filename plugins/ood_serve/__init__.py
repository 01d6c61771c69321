"""A fitted detector as a web service: images in, decisions out, many requests in one pass through the network.

| module | what it is |
|---|---|
| `limits` | `Limits`: what a request may be, and how long what may take |
| `failures` | `Failure`, an answer that is not 200 |
| `bodies` | the body of a request to encoded pictures, never more than is allowed |
| `pictures` | an encoded picture to what the network is given; its header is looked at first |
| `batching` | images that wait pass the network together: one thread |
| `monitoring` | what Prometheus is told, and whether the images still score as the calibration images did |
| `answers` | from scores to the JSON of an answer |
| `service` | `Service`: all of it for one request, without HTTP |
| `application` | paths, and errors of one shape |
| `page` | the page that takes an image |
| `connections` | connections that do not wait for ever for a request |
| `server` | sockets, signals, an orderly end |

FastAPI and uvicorn, and a batcher of our own. LitServe 0.2.19 has one, but in another process: requests and answers go
as pickles through a queue that a third process manages. An empty request took 2.4 ms that way on two cores; one that
reaches no network takes 0.4 ms here. And where LitServe is given time to wait for others, a lone request waits as well.
What is left to do is one thread with one condition.
"""
