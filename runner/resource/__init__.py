"""Pure functions on Kubernetes objects: no I/O, no clock but the one handed in; of runner only `errors` and `json_codec`.

What belongs here: how an object is named and owned (`metadata`), what a status says and how it changes (`conditions`),
what a role gets to see of a CR (`parameters`). What does not: anything that talks to a cluster (`kube`) or to Ansible
(`executor`).
"""
