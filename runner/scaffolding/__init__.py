"""What helps to write an operator: nothing here is needed to run one.

What belongs here: commands that write files into a project, and what they know of those files. What does not: anything that
talks to a cluster, and Ansible itself; roles and playbooks are read as text.
"""
