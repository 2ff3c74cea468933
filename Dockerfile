# Two images: the engine, which operators build theirs on (--target runner), and the example operator on top of it.
# docs/image.md says what is in them and how to build them elsewhere.

# Anything with apt, and Python from 3.11 on with venv; by digest, if a build has to be repeatable.
ARG BASE_IMAGE=python:3.13.14-slim-bookworm


FROM ${BASE_IMAGE} AS build
# Python's packages come from here, or from where pip's own settings say.
ARG PIP_INDEX_URL=""
RUN apt-get update && apt-get install --yes --no-install-recommends tini
RUN python3 -m venv /opt/rolerunner
ENV PATH=/opt/rolerunner/bin:${PATH} PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.txt /src/
# No compiler: a package without a wheel is a mistake in requirements.txt.
RUN pip install --no-deps --no-compile --only-binary=:all: -r /src/requirements.txt


FROM build AS collections
# Where kubernetes.core comes from: galaxy, or pypi where galaxy is out of reach. There it is in the `ansible` package, of
# whose hundred collections only the one is taken.
ARG COLLECTIONS=galaxy
ARG GALAXY_SERVER=""
COPY requirements.yml /src/
RUN case ${COLLECTIONS} in \
      galaxy) ansible-galaxy collection install --collections-path /collections ${GALAXY_SERVER:+--server ${GALAXY_SERVER}} \
          -r /src/requirements.yml ;; \
      pypi) pip download --no-deps --dest /tmp 'ansible==12.3.0' \
          && python -c "import glob, zipfile; wheel = zipfile.ZipFile(glob.glob('/tmp/ansible-*.whl')[0]); \
              wheel.extractall('/collections', [name for name in wheel.namelist() if '/kubernetes/core/' in name])" ;; \
      *) echo "COLLECTIONS is galaxy or pypi, not ${COLLECTIONS}" >&2; exit 1 ;; \
    esac
RUN cd /collections/ansible_collections/kubernetes/core && rm -rf .github changelogs docs tests


FROM build AS package
COPY README.md pyproject.toml /src/
COPY runner /src/runner
RUN pip install --no-deps --no-compile --no-build-isolation /src && pip check && pip uninstall --yes setuptools pip
# What nothing here uses: ansible-core's own tests, and what is generated of the client that the runner talks through.
RUN cd /opt/rolerunner/lib/python3*/site-packages \
 && rm -rf ansible_test ../../../bin/ansible-test \
 && find kubernetes/aio/client/api kubernetes/aio/client/models -name '*.py' ! -name __init__.py -delete
# The root file system may be read-only, and its users may not write here. Not compiled: what is sent elsewhere as source
# (modules), what Ansible's loader compiles by itself (collections), and thousands of classes of which a role may need one.
RUN python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -x 'ansible/modules/(?!setup)|ansible_collections|ansible/galaxy/data|client/(api|models)/(?!__init__)' \
        /opt/rolerunner/lib


FROM ${BASE_IMAGE} AS runner
# An init that reaps what a role leaves; where the Go operator's image has its own, as Deployments may name it.
COPY --from=build /usr/bin/tini /tini
COPY --from=package /opt/rolerunner /opt/rolerunner
COPY --from=collections /collections/ansible_collections/ /usr/share/ansible/collections/ansible_collections/
# Nothing is written to HOME by a run, which needs /tmp alone. Any user of group 0 may be given (OpenShift gives random
# ones), who is in no list of users and still wants a name.
ENV HOME=/opt/ansible \
    USER=ansible \
    PATH=/opt/rolerunner/bin:${PATH} \
    PIP_PYTHON=/opt/rolerunner/bin/python \
    ANSIBLE_LOCAL_TEMP=/tmp \
    ANSIBLE_REMOTE_TEMP=/tmp \
    ANSIBLE_ASYNC_DIR=/tmp/.ansible_async
# operator_sdk.util is part of the runner, and what asks ansible-galaxy for it is to find it.
RUN echo "ansible:x:1001:0:ansible:${HOME}:/sbin/nologin" >> /etc/passwd \
 && mkdir -p ${HOME}/.ansible/tmp \
 && chown -R 1001:0 ${HOME} \
 && chmod -R g=u ${HOME} \
 && ln -s /opt/rolerunner/bin/rolerunner /opt/rolerunner/bin/ansible-operator /usr/local/bin/ \
 && ln -s /opt/rolerunner/lib/python3*/site-packages/runner/collections/ansible_collections/operator_sdk \
        /usr/share/ansible/collections/ansible_collections/
WORKDIR ${HOME}
USER 1001
ENTRYPOINT ["/tini", "--", "/usr/local/bin/ansible-operator", "run", "--watches-file=./watches.yaml"]


FROM runner AS example
COPY requirements.yml ${HOME}/requirements.yml
RUN ansible-galaxy collection install -r ${HOME}/requirements.yml && chmod -R ug+rwx ${HOME}/.ansible
COPY watches.yaml ${HOME}/watches.yaml
COPY roles/ ${HOME}/roles/
COPY playbooks/ ${HOME}/playbooks/
