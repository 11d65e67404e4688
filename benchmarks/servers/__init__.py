"""Message servers, each as its users write them: `python -m benchmarks.servers.NAME JOB [HOW]`.

The job is `echo`, where every message goes back, or `count`, where messages are only taken and the end of a
connection is answered by their number. Each says on one line where it listens.
"""
