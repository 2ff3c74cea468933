# Two images: the engine, which operators build theirs on (--target runner), and the example operator on top of it.
# docs/image.md says what is in them and how to build them elsewhere.

# A version of requirements-ansible-core.txt; docs/from-ansible-operator.md says which one an operator needs.
ARG ANSIBLE_CORE=2.21
# Any image with apt and a Python with venv that this ansible-core supports. 3.12 suits all of them, and is the Go operator's.
# Name it by digest for a repeatable build.
ARG BASE_IMAGE=python:3.12-slim-bookworm


FROM ${BASE_IMAGE} AS build
# Where Python packages come from; empty: as pip is configured.
ARG PIP_INDEX_URL=""
RUN python3 -m venv /opt/rolerunner
ENV PATH=/opt/rolerunner/bin:${PATH} PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
COPY requirements.txt requirements-ansible-core.txt /src/
ARG ANSIBLE_CORE
RUN grep "^ansible-core==${ANSIBLE_CORE}\." /src/requirements-ansible-core.txt > /src/ansible-core.txt \
 || { echo "ANSIBLE_CORE=${ANSIBLE_CORE}: requirements-ansible-core.txt has no such line" >&2; exit 1; }
# pip skips an ansible-core that does not support its Python. There is no compiler: each package has to have a wheel.
RUN pip install --no-deps --no-compile --only-binary=:all: -r /src/ansible-core.txt \
 && { command -v ansible \
      || { echo "ansible-core ${ANSIBLE_CORE} is not for $(python --version): choose another BASE_IMAGE" >&2; exit 1; }; }
RUN pip install --no-deps --no-compile --only-binary=:all: -r /src/requirements.txt
RUN apt-get update && apt-get install --yes --no-install-recommends tini


FROM build AS collections
# Where kubernetes.core comes from: galaxy, or pypi where galaxy cannot be reached. There it is one of the hundred collections
# of the `ansible` package.
ARG COLLECTIONS=galaxy
ARG GALAXY_SERVER=""
COPY requirements.yml /src/
RUN case ${COLLECTIONS} in \
      galaxy) ansible-galaxy collection install --collections-path /collections ${GALAXY_SERVER:+--server ${GALAXY_SERVER}} \
          -r /src/requirements.yml ;; \
      pypi) pip download --no-deps --ignore-requires-python --dest /tmp 'ansible==14.5.0' \
          && python -c "import glob, zipfile; wheel = zipfile.ZipFile(glob.glob('/tmp/ansible-*.whl')[0]); \
              wheel.extractall('/collections', [name for name in wheel.namelist() if '/kubernetes/core/' in name])" ;; \
      *) echo "COLLECTIONS is galaxy or pypi, not ${COLLECTIONS}" >&2; exit 1 ;; \
    esac
RUN cd /collections/ansible_collections/kubernetes/core && rm -rf .github changelogs docs tests


FROM build AS package
COPY README.md pyproject.toml /src/
COPY runner /src/runner
RUN pip install --no-deps --no-compile --no-build-isolation /src && pip check && pip uninstall --yes setuptools
# Remove what nothing here uses: ansible-core's own tests, and the generated classes of the client that the runner uses.
RUN cd /opt/rolerunner/lib/python3*/site-packages \
 && rm -rf ansible_test ../../../bin/ansible-test \
 && find kubernetes/aio/client/api kubernetes/aio/client/models -name '*.py' ! -name __init__.py -delete
# Compile now: later the root file system may be read-only. Not compiled are modules (sent as source), collections (Ansible's
# loader compiles them), the client's thousands of generated classes, and pip.
RUN python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -x 'ansible/modules/(?!setup)|ansible_collections|ansible/galaxy/data|client/(api|models)/(?!__init__)|/pip/' \
        /opt/rolerunner/lib


FROM ${BASE_IMAGE} AS runner
# An init that reaps orphaned processes, at the path of the Go operator's image, as Deployments may name it.
COPY --from=build /usr/bin/tini /tini
COPY --from=package /opt/rolerunner /opt/rolerunner
COPY --from=collections /collections/ansible_collections/ /usr/share/ansible/collections/ansible_collections/
# A run writes to /tmp only, not to HOME. Any user of group 0 may run it (OpenShift chooses random ones), also one that is not
# in /etc/passwd, for which USER is set. USER_NAME and USER_UID are the Go image's, for `USER ${USER_UID}`.
ENV HOME=/opt/ansible \
    USER=ansible \
    USER_NAME=ansible \
    USER_UID=1001 \
    PATH=/opt/rolerunner/bin:${PATH} \
    PIP_PYTHON=/opt/rolerunner/bin/python \
    PIP_NO_CACHE_DIR=1 \
    ANSIBLE_LOCAL_TEMP=/tmp \
    ANSIBLE_REMOTE_TEMP=/tmp \
    ANSIBLE_ASYNC_DIR=/tmp/.ansible_async
# operator_sdk.util is part of the runner; ansible-galaxy has to find it installed.
RUN echo "${USER_NAME}:x:${USER_UID}:0:${USER_NAME}:${HOME}:/sbin/nologin" >> /etc/passwd \
 && mkdir -p ${HOME}/.ansible/tmp \
 && chown -R ${USER_UID}:0 ${HOME} \
 && chmod -R g=u ${HOME} \
 && ln -s /opt/rolerunner/lib/python3*/site-packages/runner/collections/ansible_collections/operator_sdk \
        /usr/share/ansible/collections/ansible_collections/
# Ansible's settings and programs, at the paths of the Go operator's image.
RUN mkdir -p /etc/ansible \
 && printf '%s\n' '[defaults]' "roles_path = ${HOME}/roles" 'library = /usr/share/ansible/openshift' > /etc/ansible/ansible.cfg \
 && echo 'localhost ansible_connection=local' > /etc/ansible/hosts \
 && ln -sf /opt/rolerunner/bin/ansible* /opt/rolerunner/bin/pip* /opt/rolerunner/bin/rolerunner /usr/local/bin/
# /usr/local/bin/python3, which roles name, is the base image's Python. It finds the runner's packages after its own.
RUN python=$(readlink -f /opt/rolerunner/bin/python3) \
 && { test -e /usr/local/bin/python3 || ln -s ${python} /usr/local/bin/python3; } \
 && cd /opt/rolerunner/lib/python3*/site-packages \
 && pwd > $(${python} -c 'import site; print(site.getsitepackages()[0])')/rolerunner.pth
ARG ANSIBLE_CORE
LABEL io.rolerunner.ansible-core=${ANSIBLE_CORE}
WORKDIR ${HOME}
USER ${USER_UID}
ENTRYPOINT ["/tini", "--", "/usr/local/bin/ansible-operator", "run", "--watches-file=./watches.yaml"]


FROM runner AS example
COPY requirements.yml ${HOME}/requirements.yml
RUN ansible-galaxy collection install -r ${HOME}/requirements.yml && chmod -R ug+rwx ${HOME}/.ansible
COPY watches.yaml ${HOME}/watches.yaml
COPY roles/ ${HOME}/roles/
COPY playbooks/ ${HOME}/playbooks/
