"""What the user said: flags, environment and watches.yaml, read once, checked once, frozen.

What belongs here: the flags of `rolerunner run` (`flags`) and the `Settings` they become (`settings`), watches.yaml
(`watches`, with its JSON `schema`), how related objects are mapped to CRs (`related`), and roles' argument specs as
files (`argument_specs`). What does not: anything that runs Ansible or talks to a cluster. A mistake is a
`errors.ConfigurationError`, whose text is for the user.
"""
