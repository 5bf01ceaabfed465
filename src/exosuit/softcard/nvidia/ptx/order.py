"""The order of blocks in which lanes that have parted meet again as early as they can.

Every branch that is not one of a loop goes forward, and the blocks of a loop lie together with its
head in front. So where the first waiting block always runs next, no lane passes a block that
others have yet to reach, and none leaves a loop's neighbourhood before all have left the loop.
"""

from __future__ import annotations

from exosuit.softcard.nvidia.ptx.parse import Block, Entry

Successors = dict[int, list[int]]


def put_in_order(entry: Entry) -> None:
    """Renumber the blocks of an entry."""
    successors = {block.number: _successors(entry, block) for block in entry.blocks}
    order = _ordered([block.number for block in entry.blocks], [0], successors)
    order += [number for number in successors if number not in set(order)]  # never reached
    place = {number: k for k, number in enumerate(order)}
    entry.blocks = [entry.blocks[number] for number in order]
    for block in entry.blocks:
        block.number = place[block.number]
        block.follows = None if block.follows is None else place[block.follows]
    entry.labels = {name: place[number] for name, number in entry.labels.items()}


def _successors(entry: Entry, block: Block) -> list[int]:
    last = block.instructions[-1] if block.instructions else None
    found: list[int] = []
    if last is not None and last.name == "bra" and last.operands[0] in entry.labels:
        found.append(entry.labels[last.operands[0]])
    ends = last is not None and last.name in ("bra", "ret", "exit") and not last.guard
    if block.follows is not None and not ends:
        found.append(block.follows)
    return found


def _ordered(nodes: list[int], roots: list[int], successors: Successors) -> list[int]:
    """What can be reached from the roots within the nodes.

    Loops are whole pieces in the order of the branches between them, each ordered inside.
    """
    inside = set(nodes)
    finished = _finished(roots, successors, inside)
    before: Successors = {node: [] for node in nodes}
    for node in nodes:
        for to in successors[node]:
            if to in inside:
                before[to].append(node)
    order: list[int] = []
    free = set(finished)
    for head in reversed(finished):
        if head not in free:
            continue
        loop, stack = {head}, [head]
        free.discard(head)
        while stack:
            for node in before[stack.pop()]:
                if node in free:
                    free.discard(node)
                    loop.add(node)
                    stack.append(node)
        order.append(head)
        if len(loop) > 1:
            body = [node for node in nodes if node in loop - {head}]
            order += _ordered(body, [x for x in successors[head] if x in body], successors)
    return order


def _finished(roots: list[int], successors: Successors, inside: set[int]) -> list[int]:
    """Nodes in the order in which a search in depth leaves them."""
    finished: list[int] = []
    seen: set[int] = set()
    for root in sorted(roots, reverse=True):
        if root in seen:
            continue
        seen.add(root)
        stack = [(root, iter(sorted(successors[root], reverse=True)))]
        while stack:
            node, rest = stack[-1]
            for to in rest:
                if to in inside and to not in seen:
                    seen.add(to)
                    stack.append((to, iter(sorted(successors[to], reverse=True))))
                    break
            else:
                finished.append(node)
                stack.pop()
    return finished
