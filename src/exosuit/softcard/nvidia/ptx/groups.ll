; Groups of a launch, taken one after the other by whoever is free. The warps of a group take turns:
; each runs to a barrier or to its end; when all have, those at the barrier go on.
;
; warp(state, resume) returns kind << 32 | block. Fields of %job and %worker are laid out in `grid`.

define void @run_groups(ptr %job, ptr %worker) nounwind {
entry:
  %warp = load ptr, ptr %job, align 8
  %counter = getelementptr i8, ptr %job, i64 {job.counter}
  %stop = getelementptr i8, ptr %job, i64 {job.stop}
  %total.p = getelementptr i8, ptr %job, i64 {job.groups}
  %total = load i64, ptr %total.p, align 8
  %wide.p = getelementptr i8, ptr %job, i64 {job.wide}
  %wide = load i64, ptr %wide.p, align 8
  %high.p = getelementptr i8, ptr %job, i64 {job.high}
  %high = load i64, ptr %high.p, align 8
  %warps.p = getelementptr i8, ptr %job, i64 {job.warps}
  %warps = load i64, ptr %warps.p, align 8
  %budget.p = getelementptr i8, ptr %job, i64 {job.budget}
  %budget = load i64, ptr %budget.p, align 8
  %masks.p = getelementptr i8, ptr %job, i64 {job.masks}
  %masks = load ptr, ptr %masks.p, align 8
  %stride.p = getelementptr i8, ptr %job, i64 {job.stride}
  %stride = load i64, ptr %stride.p, align 8
  %shared.bytes.p = getelementptr i8, ptr %job, i64 {job.shared_bytes}
  %shared.bytes = load i64, ptr %shared.bytes.p, align 8
  %states = load ptr, ptr %worker, align 8
  %resumes.p = getelementptr i8, ptr %worker, i64 {worker.resumes}
  %resumes = load ptr, ptr %resumes.p, align 8
  %shared.p = getelementptr i8, ptr %worker, i64 {worker.shared}
  %shared = load ptr, ptr %shared.p, align 8
  br label %next

next:
  %stopped = load atomic i64, ptr %stop monotonic, align 8
  %going = icmp eq i64 %stopped, 0
  br i1 %going, label %take, label %done

take:
  %group = atomicrmw add ptr %counter, i64 1 monotonic, align 8
  %has = icmp ult i64 %group, %total
  br i1 %has, label %locate, label %done

locate:
  %x.at = urem i64 %group, %wide
  %row = udiv i64 %group, %wide
  %y.at = urem i64 %row, %high
  %z.at = udiv i64 %row, %high
  %x = trunc i64 %x.at to i32
  %y = trunc i64 %y.at to i32
  %z = trunc i64 %z.at to i32
  ; What no one has written must not look like zeros.
  br label %spoil

spoil:
  %s = phi i64 [ 0, %locate ], [ %s.next, %spoil.one ]
  %s.more = icmp ult i64 %s, %shared.bytes
  br i1 %s.more, label %spoil.one, label %begin

spoil.one:
  %s.p = getelementptr i8, ptr %shared, i64 %s
  store <64 x i8> splat (i8 -1), ptr %s.p, align 64
  %s.next = add i64 %s, 64
  br label %spoil

begin:
  %b = phi i64 [ 0, %spoil ], [ %b.next, %begin ]
  %b.offset = mul i64 %b, %stride
  %b.state = getelementptr i8, ptr %states, i64 %b.offset
  %mask.p = getelementptr i32, ptr %masks, i64 %b
  %mask = load i32, ptr %mask.p, align 4
  %running.p = getelementptr i8, ptr %b.state, i64 {state.RUNNING}
  store i32 %mask, ptr %running.p, align 4
  %alive.p = getelementptr i8, ptr %b.state, i64 {state.ALIVE}
  store i32 %mask, ptr %alive.p, align 4
  %group.p = getelementptr i8, ptr %b.state, i64 {state.GROUP}
  store i32 %x, ptr %group.p, align 4
  %group.y = getelementptr i32, ptr %group.p, i64 1
  store i32 %y, ptr %group.y, align 4
  %group.z = getelementptr i32, ptr %group.p, i64 2
  store i32 %z, ptr %group.z, align 4
  %b.budget = getelementptr i8, ptr %b.state, i64 {state.BUDGET}
  store i64 %budget, ptr %b.budget, align 8
  %resume.p = getelementptr i64, ptr %resumes, i64 %b
  store i64 0, ptr %resume.p, align 8
  %b.next = add i64 %b, 1
  %b.more = icmp ult i64 %b.next, %warps
  br i1 %b.more, label %begin, label %turn

turn:
  br label %look

look:
  %w = phi i64 [ 0, %turn ], [ %w.next, %after ]
  %left = phi i64 [ 0, %turn ], [ %left.now, %after ]
  %w.resume.p = getelementptr i64, ptr %resumes, i64 %w
  %before = load i64, ptr %w.resume.p, align 8
  %over = icmp eq i64 %before, -1
  br i1 %over, label %after, label %run

run:
  %w.offset = mul i64 %w, %stride
  %state = getelementptr i8, ptr %states, i64 %w.offset
  %resume = trunc i64 %before to i32
  %result = call i64 %warp(ptr %state, i32 %resume)
  %fault.p = getelementptr i8, ptr %state, i64 {state.FAULT}
  %fault = load i64, ptr %fault.p, align 8
  %bad = icmp ne i64 %fault, 0
  br i1 %bad, label %report, label %went

went:
  %kind = lshr i64 %result, 32
  %at.barrier = icmp eq i64 %kind, {state.BARRIER}
  %block = and i64 %result, 4294967295
  %then = select i1 %at.barrier, i64 %block, i64 -1
  store i64 %then, ptr %w.resume.p, align 8
  %one = zext i1 %at.barrier to i64
  br label %after

after:
  %more = phi i64 [ 0, %look ], [ %one, %went ]
  %left.now = add i64 %left, %more
  %w.next = add i64 %w, 1
  %w.more = icmp ult i64 %w.next, %warps
  br i1 %w.more, label %look, label %judge

judge:
  %anyone = icmp ne i64 %left.now, 0
  br i1 %anyone, label %turn, label %next

report:
  %f.warp = getelementptr i8, ptr %worker, i64 {worker.fault_warp}
  store i64 %w, ptr %f.warp, align 8
  %f.group = getelementptr i8, ptr %worker, i64 {worker.fault_group}
  store i64 %group, ptr %f.group, align 8
  %f.bad = getelementptr i8, ptr %worker, i64 {worker.failed}
  store i64 1, ptr %f.bad, align 8
  store atomic i64 1, ptr %stop monotonic, align 8
  br label %done

done:
  ret void
}
