"""Patches of ansible-core and kubernetes.core, applied in the processes that play jobs.

One module for each part of Ansible that is patched; `registry` holds what they have in common: a patch is applied
only where the installed version is as the patch was written for. What does not belong here: the processes and their
protocol (`warm`).
"""
