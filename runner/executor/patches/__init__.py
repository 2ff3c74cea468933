"""Patches of ansible-core and kubernetes.core, applied in the fork server before the workers that play jobs are forked.

A module for each part of Ansible that is patched. `registry` applies a patch only where the installed version is as the
patch was written for; `ansible_core` has what differs between the supported versions. What does not belong here: the
processes and their protocol (`warm`). What each patch saves, `python -m bench.patches` measures (docs/performance.md).
"""
