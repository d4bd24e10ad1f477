"""Random BTF of struct layouts with special fields, most of it good, some of it not."""

from __future__ import annotations

import struct
from random import Random

from ksyms.btf_types import Kind
from tests.ksyms.btf_writer import BtfWriter

KERNEL_STRUCTS = ("task_struct", "cgroup", "bpf_cpumask", "sock", "file", "inode")
LOCAL_STRUCTS = ("mine", "xyz_node", "task_struct___mine", "v")
TAGS = ("kptr", "kptr_untrusted", "percpu_kptr", "uptr")
OTHER_TAGS = ("rcu", "user", "kptr_ref")
FIELD_SIZES = {
    "bpf_spin_lock": 4,
    "bpf_res_spin_lock": 4,
    "bpf_timer": 16,
    "bpf_wq": 16,
    "bpf_task_work": 8,
    "bpf_list_head": 16,
    "bpf_list_node": 24,
    "bpf_rb_root": 16,
    "bpf_rb_node": 32,
    "bpf_refcount": 4,
}
MODIFIERS = (Kind.CONST, Kind.VOLATILE, Kind.RESTRICT, Kind.TYPEDEF)


class Layouts:
    """One BTF for each *seed*: to_bytes() has it, values the structs that matter."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.writer = BtfWriter()
        self.sizes: dict[int, int] = {0: 0}
        self.int = self._sized(self.writer.integer("int", 4), 4)
        self.ints = [
            self.int,
            self._sized(self.writer.integer("char", 1), 1),
            self._sized(self.writer.integer("long", 8), 8),
            self._sized(self.writer.integer("huge", 16), 16),
        ]
        self.plain = [*self.ints, *self._odd_types()]
        self.structs = [
            self._struct_of_ints(name)
            for name in self._some(KERNEL_STRUCTS + LOCAL_STRUCTS, 4)
        ]
        # References forward make loops: types that will be there later.
        self.later = range(self.writer.next_id, self.writer.next_id + 60)
        self.special = [
            self._special(name) for name in self._some(tuple(FIELD_SIZES), 3)
        ]
        self.pointers = [self._pointer() for _ in range(self.random.randrange(1, 6))]
        self.values: list[int] = []
        for number in range(self.random.randrange(1, 5)):
            self.values.append(self._value(f"v{number}"))
        if self.random.random() < 0.2:
            self._owners()
        if self.random.random() < 0.1:
            self._deep()
        if self.random.random() < 0.3:
            self._section()
        if self.random.random() < 0.2:
            self._function()

    def to_bytes(self) -> bytes:
        return self.writer.to_bytes()

    def mutated(self) -> bytes:
        """The BTF with a few of its words changed for small or telling numbers."""
        data = bytearray(self.to_bytes())
        end = 24 + len(self.writer.types)
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            at = self.random.randrange(24, end, 4)
            (word,) = struct.unpack_from("<I", data, at)
            word = self.random.choice(
                [
                    self.random.randrange(self.writer.next_id + 2),
                    self.random.randrange(len(self.writer.strings) + 2),
                    word ^ 1 << self.random.randrange(16),
                    word + self.random.choice([-8, -1, 1, 8]) & 0xFFFF,
                    word ^ 1 << 31,
                    (word & 0xE0FFFFFF) | self.random.randrange(21) << 24,
                    self.random.choice([0, 1, 8, 64, 512, 4096]),
                ]
            )
            struct.pack_into("<I", data, at, word)
        if self.random.random() < 0.1:
            at = self.random.randrange(end, len(data))
            data[at] = self.random.choice([0, 46, 48, 65, 95, 127, 160, 200, 215, 247])
        if self.random.random() < 0.03:
            data[self.random.randrange(24)] ^= 1 << self.random.randrange(8)
        return bytes(data)

    def _some(self, names: tuple[str, ...], most: int) -> list[str]:
        return self.random.choices(names, k=self.random.randrange(1, most + 1))

    def _sized(self, type_id: int, size: int) -> int:
        self.sizes[type_id] = size
        return type_id

    def _any_id(self) -> int:
        if self.random.random() < 0.05:
            return self.random.choice(self.later)
        return self.random.randrange(self.writer.next_id)

    def _odd_types(self) -> list[int]:
        add = self.writer.add
        types = []
        chance = self.random.random
        if chance() < 0.3:
            size = self.random.choice([2, 4, 8, 12, 16])
            types.append(self._sized(add(Kind.FLOAT, "float", value=size), size))
        if chance() < 0.3:
            words = [self.writer.string("A"), 0]
            kind = add(Kind.ENUM, "e", vlen=1, value=4, words=words)
            types.append(self._sized(kind, 4))
        if chance() < 0.2:
            words = [self.writer.string("B"), 0, 1]
            kind = add(Kind.ENUM64, "e64", vlen=1, value=8, words=words)
            types.append(self._sized(kind, 8))
        if chance() < 0.2:
            types.append(self._sized(add(Kind.FWD, "fwd"), 0))
        if chance() < 0.2:
            bits = self.random.choice([3, 24, 32, 1 << 16 | 8])
            types.append(self._sized(add(Kind.INT, "odd", value=4, words=[bits]), 4))
        return types

    def _struct_of_ints(self, name: str) -> int:
        kind = Kind.UNION if self.random.random() < 0.1 else Kind.STRUCT
        size = self.random.choice([0, 4, 8])
        members = [("x", self.int, 0)] if size else []
        name = "" if self.random.random() < 0.05 else name
        return self._sized(self.writer.composite(name, size, *members, kind=kind), size)

    def _special(self, name: str) -> int:
        size = FIELD_SIZES[name]
        chance = self.random.random()
        if chance < 0.04:
            size += 8
        elif chance < 0.08:
            return self._sized(self.writer.add(Kind.TYPEDEF, name, value=self.int), 4)
        elif chance < 0.1:
            union = self.writer.composite(name, size, kind=Kind.UNION)
            return self._sized(union, size)
        kflag = self.random.random() < 0.05
        members = [("o", self.int, 0)]
        return self._sized(
            self.writer.composite(name, size, *members, kflag=kflag), size
        )

    def _modifier(self, type_id: int) -> int:
        kind = self.random.choice(MODIFIERS)
        name = "t" if kind is Kind.TYPEDEF else ""
        new = self.writer.add(kind, name, value=type_id)
        return self._sized(new, self.sizes.get(type_id, 0))

    def _pointer(self) -> int:
        chance = self.random.random
        target = self.random.choice(self.structs)
        if chance() < 0.1:
            target = self.random.choice([0, *self.plain, self._any_id()])
        while chance() < 0.15:
            target = self._modifier(target)
        if chance() < 0.93:
            target = self._tag(target)
            if chance() < 0.08:
                target = self._tag(target)
        pointer = self._sized(self.writer.pointer(target), 8)
        while chance() < 0.12:
            kind = Kind.VOLATILE if chance() < 0.5 else self.random.choice(MODIFIERS)
            name = "p_t" if kind is Kind.TYPEDEF else ""
            pointer = self._sized(self.writer.add(kind, name, value=pointer), 8)
        return pointer

    def _tag(self, target: int) -> int:
        tags = TAGS if self.random.random() < 0.9 else OTHER_TAGS
        return self.writer.add(
            Kind.TYPE_TAG,
            self.random.choice(tags),
            value=target,
            kflag=self.random.random() < 0.04,
        )

    def _array(self, element: int) -> int:
        nelems = self.random.choice([0, 1, 1, 2, 2, 3, 6, 11, 12])
        array = self.writer.array(element, nelems, self.int)
        return self._sized(array, nelems * self.sizes.get(element, 0))

    def _member_type(self) -> int:
        chance = self.random.random()
        if chance < 0.4:
            type_id = self.random.choice(self.pointers)
        elif chance < 0.6:
            type_id = self.random.choice(self.special)
        elif chance < 0.75 and self.values:
            type_id = self.random.choice(self.values)
        elif chance < 0.98:
            type_id = self.random.choice(self.plain)
        else:
            type_id = self._any_id()
        while self.random.random() < 0.15:
            type_id = self._array(type_id)
        if self.random.random() < 0.04:
            type_id = self._modifier(type_id)
        return type_id

    def _value(self, name: str) -> int:
        chance = self.random.random
        is_union = chance() < 0.1
        kflag = chance() < 0.15
        packed = chance() < 0.1
        count = self.random.choice([1, 1, 2, 2, 3, 4, 6, 12])
        types = [self._member_type() for _ in range(count)]
        members = []
        end = 0
        for number, type_id in enumerate(types):
            size = self.sizes.get(type_id, 0)
            align = 1 if packed else min(8, size & -size or 1)
            offset = 0 if is_union else -(-end // align) * align
            if chance() < 0.03:
                offset = max(0, offset - self.random.choice([1, 4, 8]))
            bits = 8 * offset
            if kflag and chance() < 0.2:
                size, bits = 4, bits + self.random.choice([0, 0, 3, 8])
                bits |= self.random.choice([1, 5, 8, 31]) << 24
                type_id = self.random.choice(self.plain)
            elif chance() < 0.01:
                bits += 3
            members.append((f"m{number}", type_id, bits))
            end = max(end, offset + size)
        size = -(-end // 8) * 8
        if chance() < 0.03:
            size = max(0, size - 8)
        value = self.writer.composite(
            name if chance() < 0.9 else self.random.choice(LOCAL_STRUCTS),
            size,
            *members,
            kind=Kind.UNION if is_union else Kind.STRUCT,
            kflag=kflag,
        )
        for number, type_id in enumerate(types):
            if type_id in self.special and chance() < 0.7:
                self._contains(value, number)
        return self._sized(value, size)

    def _contains(self, value: int, component: int) -> None:
        random = self.random
        name = random.choice(["v0", "v1", "mine", "xyz_node", "absent", ""])
        node = random.choice(["m0", "m0", "m1", "m2", ""])
        colon = ":" if random.random() < 0.95 else ""
        text = f"contains:{name}{colon}{node}"
        for _ in range(random.choice([1, 1, 1, 1, 2])):
            self.writer.add(Kind.DECL_TAG, text, value=value, words=[component])

    # Structs that own each other by lists, trees and pointers, most of them well made.
    def _owners(self) -> None:
        chance, add = self.random.random, self.writer.add
        special = {
            name: self.writer.composite(name, FIELD_SIZES[name])
            for name in ("bpf_spin_lock", "bpf_res_spin_lock", "bpf_refcount")
        }
        for name in ("bpf_list_head", "bpf_list_node", "bpf_rb_root", "bpf_rb_node"):
            special[name] = self.writer.composite(name, FIELD_SIZES[name])
        count = self.random.randrange(1, 6)
        pointers = []
        first = self.writer.next_id + 2 * count
        for _ in range(count):
            tag = add(
                Kind.TYPE_TAG,
                self.random.choice(TAGS[:3]),
                value=first + self.random.randrange(2 * count),
            )
            pointers.append(self.writer.pointer(tag))
        for number in range(count):
            members: list[tuple[str, int, int]] = []
            end = 0
            roots = []
            wanted = [
                ("l", "bpf_spin_lock" if chance() < 0.9 else "bpf_res_spin_lock", 0.8),
                ("h", "bpf_list_head", 0.5),
                ("t", "bpf_rb_root", 0.2),
                ("n", "bpf_list_node", 0.6),
                ("r", "bpf_rb_node", 0.2),
                ("c", "bpf_refcount", 0.3),
            ]
            for member, name, odds in wanted:
                if chance() < odds:
                    end = -(-end // 8) * 8
                    if name in ("bpf_list_head", "bpf_rb_root"):
                        roots.append((len(members), name))
                    members.append((member, special[name], 8 * end))
                    end += FIELD_SIZES[name]
            if chance() < 0.3:
                end = -(-end // 8) * 8
                members.append(("p", self.random.choice(pointers), 8 * end))
                end += 8
            owner = self.writer.composite(f"own{number}", -(-end // 8) * 8, *members)
            self._sized(owner, -(-end // 8) * 8)
            for component, name in roots:
                node = "n" if name == "bpf_list_head" else "r"
                owned = self.random.randrange(count)
                text = f"contains:own{owned}:{node}"
                add(Kind.DECL_TAG, text, value=owner, words=[component])

    # As deep as the kernel goes, or a little deeper.
    def _deep(self) -> None:
        depth = self.random.randrange(28, 36)
        type_id = self.random.choice(self.pointers)
        how = self.random.randrange(4)
        ids = range(self.writer.next_id, self.writer.next_id + depth)
        upwards = self.random.random() < 0.5
        for number, _ in enumerate(ids):
            # Downwards each refers to the next one, the last to the pointer.
            target = ids[number - 1] if upwards else ids[(number + 1) % depth]
            if (number == 0) if upwards else (number == depth - 1):
                target = type_id
            if how == 0:
                self.writer.composite(f"d{number}", 8, ("m", target, 0))
            elif how == 1:
                self.writer.array(target, 1, self.int)
            elif how == 2:
                self.writer.add(Kind.CONST, value=target)
            else:
                self.writer.pointer(target)
        top = ids[-1] if upwards else ids[0]
        self.values.append(self.writer.composite("deep", 8, ("m", top, 0)))
        self._sized(self.values[-1], 8)

    def _section(self) -> None:
        variables = []
        end = 0
        for number in range(self.random.randrange(1, 4)):
            type_id = self.random.choice([*self.values, *self.pointers, *self.plain])
            var = self.writer.var(f"g{number}", type_id)
            size = self.sizes.get(type_id, 0)
            variables.append((var, end, size))
            end = -(-(end + size) // 8) * 8
        self.writer.datasec(".bss", end, *variables)

    def _function(self) -> None:
        params = [("a", self.random.choice(self.pointers)), ("b", self.int)]
        proto = self.writer.proto(self.random.choice([0, self.int]), *params)
        self.writer.func("f", proto, self.random.choice([0, 1, 1]))
