"""What the user configures: flags, environment and watches.yaml, read once, checked once, frozen.

What belongs here: the flags of `rolerunner run` (`flags`) and the `Settings` they become (`settings`); watches.yaml
(`watches`), whose keys are declared by `keys`, read from `yaml_nodes` and shown as a JSON `schema`; the annotations by which
a CR overrides its watch (`annotations`); how related objects are mapped to CRs (`related`); roles' argument specs as files
(`argument_specs`); and reading YAML files (`yaml_files`). What does not: anything that runs Ansible or talks to a cluster.
A mistake is an `errors.ConfigurationError`, whose text is for the user.
"""
