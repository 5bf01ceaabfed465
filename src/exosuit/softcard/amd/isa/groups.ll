; Workgroups of a dispatch, taken one after the other by whoever is free. The waves of a group take
; turns: each runs until it ends, reaches a barrier or has had its slice; when all that are left
; wait at the barrier, all go on.
;
; wave(state, resume) returns kind << 32 | where to resume. Kinds: 0 go on, 1 at a barrier, 2 ended,
; more is a fault. Fields of %job and %worker are laid out in `groups`.

define void @run_groups(ptr %job, ptr %worker) nounwind {
entry:
  %wave = load ptr, ptr %job, align 8
  %counter = getelementptr i8, ptr %job, i64 {job.counter}
  %stop = getelementptr i8, ptr %job, i64 {job.stop}
  %total.p = getelementptr i8, ptr %job, i64 {job.groups}
  %total = load i64, ptr %total.p, align 8
  %wide.p = getelementptr i8, ptr %job, i64 {job.wide}
  %wide = load i64, ptr %wide.p, align 8
  %high.p = getelementptr i8, ptr %job, i64 {job.high}
  %high = load i64, ptr %high.p, align 8
  %x0.p = getelementptr i8, ptr %job, i64 {job.start_x}
  %x0 = load i64, ptr %x0.p, align 8
  %y0.p = getelementptr i8, ptr %job, i64 {job.start_y}
  %y0 = load i64, ptr %y0.p, align 8
  %z0.p = getelementptr i8, ptr %job, i64 {job.start_z}
  %z0 = load i64, ptr %z0.p, align 8
  %waves.p = getelementptr i8, ptr %job, i64 {job.waves}
  %waves = load i64, ptr %waves.p, align 8
  %slice.p = getelementptr i8, ptr %job, i64 {job.slice}
  %slice = load i64, ptr %slice.p, align 8
  %budget.p = getelementptr i8, ptr %job, i64 {job.budget}
  %budget = load i64, ptr %budget.p, align 8
  %idx.p = getelementptr i8, ptr %job, i64 {job.place_x}
  %idx = load i64, ptr %idx.p, align 8
  %idy.p = getelementptr i8, ptr %job, i64 {job.place_y}
  %idy = load i64, ptr %idy.p, align 8
  %idz.p = getelementptr i8, ptr %job, i64 {job.place_z}
  %idz = load i64, ptr %idz.p, align 8
  %user.p = getelementptr i8, ptr %job, i64 {job.user_data}
  %user = load <16 x i32>, ptr %user.p, align 4
  %items.p = getelementptr i8, ptr %job, i64 {job.items}
  %items = load ptr, ptr %items.p, align 8
  %masks.p = getelementptr i8, ptr %job, i64 {job.masks}
  %masks = load ptr, ptr %masks.p, align 8
  %states = load ptr, ptr %worker, align 8
  %kinds.p = getelementptr i8, ptr %worker, i64 {worker.kinds}
  %kinds = load ptr, ptr %kinds.p, align 8
  %instructions.p = getelementptr i8, ptr %worker, i64 {worker.instructions}
  %bytes.p = getelementptr i8, ptr %worker, i64 {worker.memory_bytes}
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
  %x.in = urem i64 %group, %wide
  %row = udiv i64 %group, %wide
  %y.in = urem i64 %row, %high
  %z.in = udiv i64 %row, %high
  %x.at = add i64 %x.in, %x0
  %y.at = add i64 %y.in, %y0
  %z.at = add i64 %z.in, %z0
  %x = trunc i64 %x.at to i32
  %y = trunc i64 %y.at to i32
  %z = trunc i64 %z.at to i32
  br label %begin

begin:
  %b = phi i64 [ 0, %locate ], [ %b.next, %begin ]
  %b.offset = mul i64 %b, {state.STRIDE}
  %b.state = getelementptr i8, ptr %states, i64 %b.offset
  store <16 x i32> %user, ptr %b.state, align 4
  %px = getelementptr i8, ptr %b.state, i64 %idx
  store i32 %x, ptr %px, align 4
  %py = getelementptr i8, ptr %b.state, i64 %idy
  store i32 %y, ptr %py, align 4
  %pz = getelementptr i8, ptr %b.state, i64 %idz
  store i32 %z, ptr %pz, align 4
  %mask.p = getelementptr i32, ptr %masks, i64 %b
  %mask = load i32, ptr %mask.p, align 4
  %exec.p = getelementptr i8, ptr %b.state, i64 {state.EXEC}
  store i32 %mask, ptr %exec.p, align 4
  %ids.p = getelementptr <32 x i32>, ptr %items, i64 %b
  %ids = load <32 x i32>, ptr %ids.p, align 4
  %v0.p = getelementptr i8, ptr %b.state, i64 {state.VECTORS}
  store <32 x i32> %ids, ptr %v0.p, align 64
  %done.p = getelementptr i8, ptr %b.state, i64 {state.INSTRUCTIONS}
  store i64 0, ptr %done.p, align 8
  %moved.p = getelementptr i8, ptr %b.state, i64 {state.MEMORY_BYTES}
  store i64 0, ptr %moved.p, align 8
  %pause.p = getelementptr i8, ptr %b.state, i64 {state.PAUSE_AT}
  store i64 %slice, ptr %pause.p, align 8
  %kind.p = getelementptr i64, ptr %kinds, i64 %b
  store i64 0, ptr %kind.p, align 8
  %b.next = add i64 %b, 1
  %b.more = icmp ult i64 %b.next, %waves
  br i1 %b.more, label %begin, label %turn

turn:
  br label %look

look:
  %w = phi i64 [ 0, %turn ], [ %w.next, %after ]
  %paused = phi i64 [ 0, %turn ], [ %paused.now, %after ]
  %waiting = phi i64 [ 0, %turn ], [ %waiting.now, %after ]
  %w.kind.p = getelementptr i64, ptr %kinds, i64 %w
  %before = load i64, ptr %w.kind.p, align 8
  %before.kind = lshr i64 %before, 32
  %ready = icmp eq i64 %before.kind, 0
  br i1 %ready, label %run, label %held

held:
  %at.barrier = icmp eq i64 %before.kind, 1
  %one.waits = zext i1 %at.barrier to i64
  br label %after

run:
  %w.offset = mul i64 %w, {state.STRIDE}
  %state = getelementptr i8, ptr %states, i64 %w.offset
  %resume = trunc i64 %before to i32
  %result = call i64 %wave(ptr %state, i32 %resume)
  store i64 %result, ptr %w.kind.p, align 8
  %kind = lshr i64 %result, 32
  %w.done.p = getelementptr i8, ptr %state, i64 {state.INSTRUCTIONS}
  %w.done = load i64, ptr %w.done.p, align 8
  switch i64 %kind, label %fault [
    i64 0, label %pause
    i64 1, label %barrier
    i64 2, label %ended
  ]

pause:
  %w.pause.p = getelementptr i8, ptr %state, i64 {state.PAUSE_AT}
  %later = add i64 %w.done, %slice
  store i64 %later, ptr %w.pause.p, align 8
  %spent = icmp ugt i64 %w.done, %budget
  br i1 %spent, label %hang, label %still

still:
  %stopped.now = load atomic i64, ptr %stop monotonic, align 8
  %going.on = icmp eq i64 %stopped.now, 0
  br i1 %going.on, label %after, label %done

barrier:
  br label %after

ended:
  %i.old = load i64, ptr %instructions.p, align 8
  %i.new = add i64 %i.old, %w.done
  store i64 %i.new, ptr %instructions.p, align 8
  %w.moved.p = getelementptr i8, ptr %state, i64 {state.MEMORY_BYTES}
  %w.moved = load i64, ptr %w.moved.p, align 8
  %m.old = load i64, ptr %bytes.p, align 8
  %m.new = add i64 %m.old, %w.moved
  store i64 %m.new, ptr %bytes.p, align 8
  br label %after

after:
  %more.paused = phi i64 [ 0, %held ], [ 1, %still ], [ 0, %barrier ], [ 0, %ended ]
  %more.waiting = phi i64 [ %one.waits, %held ], [ 0, %still ], [ 1, %barrier ], [ 0, %ended ]
  %paused.now = add i64 %paused, %more.paused
  %waiting.now = add i64 %waiting, %more.waiting
  %w.next = add i64 %w, 1
  %w.more = icmp ult i64 %w.next, %waves
  br i1 %w.more, label %look, label %judge

judge:
  %anyone = icmp ne i64 %paused.now, 0
  br i1 %anyone, label %turn, label %release

release:
  %held.any = icmp ne i64 %waiting.now, 0
  br i1 %held.any, label %open, label %next

open:
  %o = phi i64 [ 0, %release ], [ %o.next, %open ]
  %o.p = getelementptr i64, ptr %kinds, i64 %o
  %o.old = load i64, ptr %o.p, align 8
  %o.kind = lshr i64 %o.old, 32
  %o.waits = icmp eq i64 %o.kind, 1
  %o.go = and i64 %o.old, 4294967295
  %o.new = select i1 %o.waits, i64 %o.go, i64 %o.old
  store i64 %o.new, ptr %o.p, align 8
  %o.next = add i64 %o, 1
  %o.more = icmp ult i64 %o.next, %waves
  br i1 %o.more, label %open, label %turn

hang:
  %resume.at = and i64 %result, 4294967295
  %hang.at = trunc i64 %resume.at to i32
  %hang.p = getelementptr i8, ptr %state, i64 {state.FAULT_ADDRESS}
  store i32 %hang.at, ptr %hang.p, align 4
  br label %report

fault:
  br label %report

report:
  %reported = phi i64 [ {kind.hang}, %hang ], [ %kind, %fault ]
  %f.kind.p = getelementptr i8, ptr %worker, i64 {worker.fault}
  store i64 %reported, ptr %f.kind.p, align 8
  %f.group.p = getelementptr i8, ptr %worker, i64 {worker.fault_group}
  store i64 %group, ptr %f.group.p, align 8
  %f.wave.p = getelementptr i8, ptr %worker, i64 {worker.fault_wave}
  store i64 %w, ptr %f.wave.p, align 8
  store atomic i64 1, ptr %stop monotonic, align 8
  br label %done

done:
  ret void
}
