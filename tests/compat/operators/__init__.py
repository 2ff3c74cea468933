"""Public operators, run from folders that are given: `python -m tests.compat.operators FOLDER…`.

`description` says what is special about an operator, `image` what its image and Deployment make of its folder, `trial`
takes one engine through a CR's life, `snapshot` reads what is in the cluster, and `comparison` says how two engines differ.
`services` stands in for what the operator's own pods would answer.
Nothing of an operator's source belongs here.
"""
