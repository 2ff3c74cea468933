"""Runs a CR's role or playbook: makes a job of the CR, has the executor run it, and follows its events to an outcome.

Here Kubernetes and Ansible meet. While the job runs it has a session at the proxy, through which it reaches the cluster, and
a folder with kubeconfigs that lead there.

Next on the way: `runner.executor.jobs`, and `runner.proxy.server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runner import metrics
from runner.config.annotations import for_cr
from runner.config.settings import Settings
from runner.config.watches import Content
from runner.control import Request
from runner.control.broken_conditionals import BrokenConditionals, Places
from runner.control.failures import explained, is_to_be_explained
from runner.control.handlers import is_watched_dependent
from runner.control.history import History
from runner.control.own_writes import OwnWrites
from runner.control.plan import Plan
from runner.control.private_folder import SCRATCH, private_folder, write_kubeconfigs
from runner.control.reconciliation import BIG, Phases, Reconciliation
from runner.control.records import ReconcileRecord, RunRecord
from runner.control.run_log import RunLog, warn_of_long_run
from runner.control.spans import Spans
from runner.control.status import StatusWriter
from runner.executor.argument_check import Arguments
from runner.executor.jobs import Execute, ExecutorError, Fold, Job, JobEvent, Loops, Outcome
from runner.executor.run_folder import ARTIFACTS, RunFolders
from runner.kube.discovery import Resource
from runner.logs import RunnerEvent
from runner.proxy.dry_run import DryRun
from runner.proxy.sessions import OnWrite, Session, Sessions, Token, basic_authorization, kubeconfigs
from runner.resource import parameters
from runner.resource.metadata import Object, Owner

logger = logging.getLogger(__name__)

# Characters of a plan that its record has.
_LONGEST_PLAN = 256 * 1024


@dataclass(slots=True, kw_only=True)
class Runs:
    """Runs CRs, for real or as dry runs."""

    settings: Settings
    execute: Execute
    folders: RunFolders
    sessions: Sessions
    proxy_port: int
    status: StatusWriter
    # Both None where nothing is watched. `on_dependent` is called for each object of a CR that its watch has watched.
    own_writes: OwnWrites | None = None
    on_dependent: Callable[[Resource, Object, Owner], None] | None = None
    history: History = field(default_factory=History)
    spans: Spans | None = None
    _arguments: Arguments = field(default_factory=Arguments, init=False)
    _broken_conditionals: BrokenConditionals = field(default_factory=BrokenConditionals, init=False)

    async def run(self, reconciliation: Reconciliation, obj: Object) -> Outcome:
        """Run the CR as `obj` has it. An error that keeps it from being run is an outcome as well. Raises Unusable."""
        request = reconciliation.request
        content, variables = _content(reconciliation)
        built = await self._variables(reconciliation, obj, variables)
        fields: dict[str, object] = {**request.fields, "job": reconciliation.ident}
        run = self._record(reconciliation, content)
        try:
            outcome = await self._run_job(reconciliation, run, content, built)
        except ExecutorError as error:
            logger.error("The run came to nothing", extra={**fields, "error": str(error)})
            outcome = Outcome(messages=(str(error),))
        except OSError as error:
            # A full disk, no more processes: the CR says so, and it is tried again.
            message = f"The run could not be made: {error}"
            logger.error("The run came to nothing", extra={**fields, "error": message})
            outcome = Outcome(messages=(message,))
        except asyncio.CancelledError:
            logger.warning("The run was ended", extra=fields)
            run.end(None)
            raise
        except Exception:
            # A fault of the runner, which ends the reconcile as well.
            run.end(None)
            raise
        run.end(outcome)
        if reconciliation.plan:
            message, event = "Planned", RunnerEvent.DRY_RUN_ENDED
        elif outcome.succeeded:
            message, event = "Run succeeded", RunnerEvent.RUN_SUCCEEDED
        else:
            message, event = "Run failed", RunnerEvent.RUN_FAILED
        logger.info(message, extra={"event": event, **fields, **outcome.counts})
        return outcome

    async def dry_run(
        self,
        request: Request,
        resource: Resource,
        obj: Object,
        *,
        ident: str,
        finalizing: bool = False,
        record: ReconcileRecord | None = None,
    ) -> Plan:
        """Run the CR as `obj` has it without writing anything; the plan says what would change. `ident`: the run's."""
        record = record or ReconcileRecord(request=request)
        plan = Plan(request.fields, DryRun(cr=obj, path=resource.path(request.key)))
        watch, _ = for_cr(request.watch, obj)
        owner = Owner(watch.gvk, request.key, obj["metadata"]["uid"])
        reconciliation = Reconciliation(
            request=request,
            watch=watch,
            resource=resource,
            owner=owner,
            finalizing=finalizing,
            record=record,
            phases=Phases(record),
            ident=ident,
            plan=plan,
        )
        try:
            reconciliation = reconciliation.sized(obj)
            problems = [] if finalizing else await self.problems(reconciliation, obj)
            plan.outcome = Outcome(messages=tuple(problems)) if problems else await self.run(reconciliation, obj)
        except parameters.Unusable as error:
            plan.outcome = Outcome(messages=(str(error),))
        if record.run:
            record.run.plan = (await asyncio.to_thread(plan.text))[:_LONGEST_PLAN]
        return plan

    async def problems(self, reconciliation: Reconciliation, obj: Object) -> list[str]:
        """Compare the CR with the argument specs of its role or playbook; one line for each mistake, by the CR's fields."""
        watch, spec = reconciliation.watch, obj.get("spec")
        check = functools.partial(
            self._arguments.problems,
            role=watch.content.role,
            playbook=watch.content.playbook,
            given=spec if isinstance(spec, Mapping) else {},
            others=(*watch.vars, *parameters.own_variables(watch.gvk)),
            keys_of=functools.partial(parameters.fields_by_variable, snake_case=watch.snake_case_parameters),
            templates=not watch.mark_unsafe,
            complete=not self.settings.ansible_args,
        )
        return await asyncio.to_thread(check) if reconciliation.is_big else check()

    async def forget(self, request: Request) -> None:
        """Remove the inputs and artifacts of a CR that is gone."""
        await asyncio.to_thread(self.folders.remove, folder_parts(request))

    async def _variables(
        self, reconciliation: Reconciliation, obj: Object, variables: Mapping[str, object]
    ) -> parameters.Parameters:
        watch = reconciliation.watch
        build = functools.partial(
            parameters.build,
            gvk=watch.gvk,
            obj=obj,
            watch_vars=variables,
            snake_case=watch.snake_case_parameters,
            mark_unsafe=watch.mark_unsafe,
        )
        built = await asyncio.to_thread(build) if reconciliation.is_big else build()
        if built.dropped:
            text = f"Not passed to the role, as Ansible would take them as its own variables: {', '.join(built.dropped)}"
            await self.status.warn_once(reconciliation, "ReservedVariable", text)
        return built

    def _record(self, reconciliation: Reconciliation, content: Content) -> RunRecord:
        """Begin the record of a run."""
        assert content.path is not None
        ident = reconciliation.ident
        folder = self.folders.folder(folder_parts(reconciliation.request)) / ARTIFACTS / ident
        run = RunRecord(
            ident=ident,
            content=content.path,
            artifacts=folder if self.settings.run_artifacts else None,
            is_dry_run=reconciliation.plan is not None,
        )
        self.history.begin_run(reconciliation.record, run)
        if self.spans:
            self.spans.begin_run(run)
        return run

    async def _run_job(
        self, reconciliation: Reconciliation, run: RunRecord, content: Content, built: parameters.Parameters
    ) -> Outcome:
        """Run with a session and a private folder that live as long. Raises ExecutorError and OSError."""
        request, plan = reconciliation.request, reconciliation.plan
        async with contextlib.AsyncExitStack() as stack:
            on_write = stack.enter_context(self.own_writes.of_run(request)) if self.own_writes else None
            token = stack.enter_context(self.sessions.opened(self._session(reconciliation, run, on_write)))
            private = await stack.enter_async_context(private_folder(self.folders.running))
            job = self._job(reconciliation, run.ident, content, built, token=token, private=private)
            cause = {"cause": reconciliation.record.cause} if reconciliation.record.cause else {}
            fields = {**request.fields, "job": run.ident, "content": str(content.path), **cause}
            event = RunnerEvent.DRY_RUN_STARTED if plan else RunnerEvent.RUN_STARTED
            logger.info("Planning" if plan else "Running", extra={"event": event, **fields})
            return await self._follow(job, reconciliation, run)

    def _job(
        self,
        reconciliation: Reconciliation,
        ident: str,
        content: Content,
        built: parameters.Parameters,
        *,
        token: Token,
        private: Path,
    ) -> Job:
        request, watch, plan = reconciliation.request, reconciliation.watch, reconciliation.plan
        # Where a CR may bring templates, it may bring code.
        shares_worker = self.settings.run_isolation == "worker" and watch.mark_unsafe and not plan
        configs = kubeconfigs(token, port=self.proxy_port, namespace=request.key.namespace)
        return Job(
            ident=ident,
            folder=self.folders.folder(folder_parts(request)),
            scratch=private / SCRATCH,
            role=content.role,
            playbook=content.playbook,
            data=built.data,
            extra_vars=built.extra_vars,
            is_big=reconciliation.is_big,
            environment={**write_kubeconfigs(private, *configs), **(self.spans.environment() if self.spans else {})},
            # From 1 on Ansible says why it skips a task.
            verbosity=max(watch.verbosity, 1) if plan else watch.verbosity,
            arguments=self.settings.ansible_args,
            max_artifacts=watch.max_runner_artifacts if self.settings.run_artifacts else None,
            check=plan is not None,
            pool=f"{watch.gvk} {content.path}" if shares_worker else "",
            # Clients put the server's URL into their errors, and the token with it; some send it in its other form.
            secrets=(token, basic_authorization(token)),
            names=folder_parts(request),
        )

    async def _follow(self, job: Job, reconciliation: Reconciliation, run: RunRecord) -> Outcome:
        """Run the job to its end, or to the end of its time. Raises ExecutorError."""
        request, watch, plan = reconciliation.request, reconciliation.watch, reconciliation.plan
        fold, loops, places = Fold(), Loops(), Places()
        remedy = "" if watch.timeout else "set `timeout` for its kind in watches.yaml to have such a run ended"
        run_log = RunLog(request, self.settings.log_events, output=self.settings.debug_logs)
        try:
            # Also while a run is being ended, which takes a place as long as it does not end.
            with warn_of_long_run(request, job.ident, lambda: fold.task, remedy):
                async with asyncio.timeout(watch.timeout) as deadline, contextlib.aclosing(self.execute(job)) as events:
                    first = True
                    async for raw in events:
                        event = await _readable(loops.joined(raw))
                        if first:
                            reconciliation.phases.finish("start")
                            first = False
                        if event.event == "playbook_on_stats":
                            reconciliation.phases.finish("tasks")
                        run_log.add(event)
                        fold.add(event)
                        run.add_event(event)
                        self.history.notify(request)
                        places.add(event)
                        if plan:
                            plan.add(event)
            reconciliation.phases.finish("end")
            self._broken_conditionals.warn(job.role or job.playbook or job.folder, request, places)
            return fold.outcome()
        except TimeoutError:
            if not deadline.expired():
                raise
            metrics.run_timed_out(str(watch.gvk))
            at = f", in task {fold.task!r}" if fold.task else ""
            raise ExecutorError(f"The run was ended at its timeout of {watch.timeout:g} s{at}") from None
        finally:
            run_log.close()

    def _session(self, reconciliation: Reconciliation, run: RunRecord, on_write: OnWrite | None) -> Session:
        watch, owner, plan = reconciliation.watch, reconciliation.owner, reconciliation.plan

        def found(resource: Resource, obj: Object) -> None:
            if self.on_dependent and is_watched_dependent(
                watch, resource.gvk, namespaced=resource.namespaced, owner=owner.key
            ):
                self.on_dependent(resource, obj, owner)

        def written(uid: str, before: str | None, version: str) -> None:
            reconciliation.written.add(uid)
            if on_write:
                on_write(uid, before, version)

        return Session(
            owner=owner,
            inject_owner=self.settings.inject_owner_ref,
            on_dependent=found,
            on_write=written,
            on_request=run.add_request,
            new_traceparent=self.spans.children() if self.spans else str,
            blacklist=watch.blacklist,
            dry_run=plan.dry_run if plan else None,
        )


def _content(reconciliation: Reconciliation) -> tuple[Content, Mapping[str, object]]:
    """The role or playbook to run, with the watch's variables for it."""
    watch, finalizer = reconciliation.watch, reconciliation.watch.finalizer
    if not reconciliation.finalizing or finalizer is None:
        return watch.content, watch.vars
    return finalizer.content or watch.content, {**watch.vars, **finalizer.vars}


async def _readable(event: JobEvent) -> JobEvent:
    """The event, with a failure's message made readable."""
    if not is_to_be_explained(event):
        return event
    message = event.result.get("msg")
    is_long = len(event.stdout) > BIG or (isinstance(message, str) and len(message) > BIG)
    return await asyncio.to_thread(explained, event) if is_long else explained(event)


def folder_parts(request: Request) -> tuple[str, ...]:
    """The parts by which `RunFolders` finds a CR's folder."""
    gvk, key = request.watch.gvk, request.key
    return (gvk.group, gvk.version, gvk.kind, key.namespace, key.name)
