"""Pure functions on Kubernetes objects: no I/O, no clock but the one handed in; of runner only `errors` and `json_codec`.

What belongs here: names and owners (`metadata`), comparison and diffs, the status (`conditions`), the variables of a run
(`parameters`), selectors, messages of the API server (`api_status`), and masking. What does not: anything that talks to a
cluster (`kube`) or to Ansible (`executor`).
"""
