/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole state of a vCPU as one block of bytes: a version word, then sections
 * {u32 tag, u32 length, data}, each what one KVM_GET ioctl gives. The vCPU must
 * not run meanwhile. Restoring needs the same CPUID (arch_init_vcpu() before).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "arch.h"

#define STATE_VERSION 1u
#define MSRS_PER_CALL 64u

enum { MP_STATE = 1, REGS, SREGS, FPU, XSAVE, XCRS, LAPIC, EVENTS, DEBUGREGS, MSRS, TSC_KHZ };

struct writer {
  uint8_t *out;
  size_t used, room;
};

static int put(struct writer *w, uint32_t tag, const void *data, size_t len) {
  uint32_t head[2] = {tag, (uint32_t)len};
  if (w->room - w->used < sizeof(head) || w->room - w->used - sizeof(head) < len) return -ENOBUFS;
  memcpy(w->out + w->used, head, sizeof(head));
  memcpy(w->out + w->used + sizeof(head), data, len);
  w->used += sizeof(head) + len;
  return 0;
}

static int read_msr_list(arch_t *a) {
  struct kvm_msr_list probe = {0};
  if (a->msr_list) return 0;
  int kvm = a->api->kvm_fd(a->vm);
  if (ioctl(kvm, KVM_GET_MSR_INDEX_LIST, &probe) < 0 && errno != E2BIG) {
    a->failed = "KVM_GET_MSR_INDEX_LIST";
    return -errno;
  }
  struct kvm_msr_list *list = calloc(1, sizeof(*list) + probe.nmsrs * sizeof(list->indices[0]));
  if (!list) return -ENOMEM;
  list->nmsrs = probe.nmsrs;
  int r = arch_ioctl(a, kvm, KVM_GET_MSR_INDEX_LIST, "KVM_GET_MSR_INDEX_LIST", list);
  if (r < 0) {
    free(list);
    return r;
  }
  a->msr_list = list;
  return 0;
}

struct msr_block {
  struct kvm_msrs head;
  struct kvm_msr_entry entries[MSRS_PER_CALL];
};

/* KVM lists MSRs that this vCPU's CPUID does not have: those are passed over. */
static int save_msrs(arch_t *a, int fd, struct writer *w) {
  struct msr_block block;
  int r = read_msr_list(a);
  if (r < 0) return r;
  for (uint32_t done = 0; done < a->msr_list->nmsrs;) {
    uint32_t chunk = a->msr_list->nmsrs - done < MSRS_PER_CALL ? a->msr_list->nmsrs - done : MSRS_PER_CALL;
    memset(&block, 0, sizeof(block));
    block.head.nmsrs = chunk;
    for (uint32_t i = 0; i < chunk; i++) block.entries[i].index = a->msr_list->indices[done + i];
    r = arch_ioctl(a, fd, KVM_GET_MSRS, "KVM_GET_MSRS", &block);
    if (r < 0) return r;
    if (r && put(w, MSRS, block.entries, (size_t)r * sizeof(block.entries[0])) < 0) return -ENOBUFS;
    done += (uint32_t)r < chunk ? (uint32_t)r + 1 : chunk;
  }
  return 0;
}

static int restore_msrs(arch_t *a, int fd, const uint8_t *data, size_t len) {
  struct msr_block block;
  size_t n = len / sizeof(block.entries[0]);
  if (len % sizeof(block.entries[0])) return -EINVAL;
  for (size_t done = 0; done < n;) {
    size_t chunk = n - done < MSRS_PER_CALL ? n - done : MSRS_PER_CALL;
    memset(&block, 0, sizeof(block));
    block.head.nmsrs = (uint32_t)chunk;
    memcpy(block.entries, data + done * sizeof(block.entries[0]), chunk * sizeof(block.entries[0]));
    int r = arch_ioctl(a, fd, KVM_SET_MSRS, "KVM_SET_MSRS", &block);
    if (r < 0) return r;
    done += (size_t)r < chunk ? (size_t)r + 1 : chunk; /* some may be read but not written */
  }
  return 0;
}

static int save_all(arch_t *a, int fd, struct writer *w) {
  union {
    struct kvm_mp_state mp;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_fpu fpu;
    struct kvm_xcrs xcrs;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events;
    struct kvm_debugregs debug;
  } u;
  int r;
#define SECTION(tag, member, request)                                          \
  do {                                                                         \
    memset(&u, 0, sizeof(u));                                                  \
    if ((r = arch_ioctl(a, fd, request, #request, &u.member)) < 0) return r;   \
    if ((r = put(w, tag, &u.member, sizeof(u.member))) < 0) return r;          \
  } while (0)
  /* MP state first: KVM turns a pending INIT or SIPI into events while telling it. */
  SECTION(MP_STATE, mp, KVM_GET_MP_STATE);
  SECTION(REGS, regs, KVM_GET_REGS);
  SECTION(SREGS, sregs, KVM_GET_SREGS);
  int xsave = ioctl(a->api->vm_fd(a->vm), KVM_CHECK_EXTENSION, (void *)KVM_CAP_XSAVE2);
  if (xsave >= (int)sizeof(struct kvm_xsave)) {
    void *area = calloc(1, (size_t)xsave);
    if (!area) return -ENOMEM;
    r = arch_ioctl(a, fd, KVM_GET_XSAVE2, "KVM_GET_XSAVE2", area);
    if (r >= 0) r = put(w, XSAVE, area, (size_t)xsave);
    free(area);
    if (r < 0) return r;
    SECTION(XCRS, xcrs, KVM_GET_XCRS);
  } else {
    SECTION(FPU, fpu, KVM_GET_FPU);
  }
  SECTION(DEBUGREGS, debug, KVM_GET_DEBUGREGS);
  int khz = ioctl(fd, KVM_GET_TSC_KHZ, NULL);
  uint32_t tsc = khz > 0 ? (uint32_t)khz : 0;
  if ((r = put(w, TSC_KHZ, &tsc, sizeof(tsc))) < 0) return r;
  if ((r = save_msrs(a, fd, w)) < 0) return r;
  SECTION(LAPIC, lapic, KVM_GET_LAPIC);
  SECTION(EVENTS, events, KVM_GET_VCPU_EVENTS);
#undef SECTION
  return 0;
}

int64_t arch_save_vcpu(arch_t *a, int fd, uint8_t *out, size_t room) {
  struct writer w = {out, sizeof(uint32_t), room};
  uint32_t version = STATE_VERSION;
  if (room < sizeof(version)) return -ENOBUFS;
  memcpy(out, &version, sizeof(version));
  int r = save_all(a, fd, &w);
  return r < 0 ? r : (int64_t)w.used;
}

static int restore_section(arch_t *a, int fd, uint32_t tag, void *data, size_t len) {
  static const struct {
    uint32_t tag, len;
    unsigned long request;
    const char *name;
  } plain[] = {
      {MP_STATE, sizeof(struct kvm_mp_state), KVM_SET_MP_STATE, "KVM_SET_MP_STATE"},
      {REGS, sizeof(struct kvm_regs), KVM_SET_REGS, "KVM_SET_REGS"},
      {SREGS, sizeof(struct kvm_sregs), KVM_SET_SREGS, "KVM_SET_SREGS"},
      {FPU, sizeof(struct kvm_fpu), KVM_SET_FPU, "KVM_SET_FPU"},
      {XCRS, sizeof(struct kvm_xcrs), KVM_SET_XCRS, "KVM_SET_XCRS"},
      {LAPIC, sizeof(struct kvm_lapic_state), KVM_SET_LAPIC, "KVM_SET_LAPIC"},
      {EVENTS, sizeof(struct kvm_vcpu_events), KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS"},
      {DEBUGREGS, sizeof(struct kvm_debugregs), KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS"},
  };
  if (tag == MSRS) return restore_msrs(a, fd, data, len);
  if (tag == XSAVE) { /* KVM reads as much as this vCPU's area holds: never less than it takes */
    int need = ioctl(a->api->vm_fd(a->vm), KVM_CHECK_EXTENSION, (void *)KVM_CAP_XSAVE2);
    if (len < sizeof(struct kvm_xsave) || (need > 0 && len < (size_t)need)) return -EINVAL;
    return arch_ioctl(a, fd, KVM_SET_XSAVE, "KVM_SET_XSAVE", data);
  }
  if (tag == TSC_KHZ) { /* a host of another frequency must scale; one within KVM's tolerance need not */
    uint32_t khz;
    if (len != sizeof(khz)) return -EINVAL;
    memcpy(&khz, data, sizeof(khz));
    int now = ioctl(fd, KVM_GET_TSC_KHZ, NULL);
    if (!khz || now <= 0 || (uint32_t)now == khz) return 0;
    return arch_ioctl(a, fd, KVM_SET_TSC_KHZ, "KVM_SET_TSC_KHZ", (void *)(uintptr_t)khz);
  }
  for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
    if (plain[i].tag == tag) {
      if (plain[i].len != len) return -EINVAL;
      return arch_ioctl(a, fd, plain[i].request, plain[i].name, data);
    }
  return -EINVAL;
}

/* KVM's interface gives an order: special registers before MSRs, those before the LAPIC (its
 * deadline timer), events after all that may raise one, MP state last. */
int arch_restore_vcpu(arch_t *a, int fd, const uint8_t *data, size_t len) {
  static const uint32_t order[] = {TSC_KHZ, SREGS, REGS, XCRS, XSAVE, FPU, DEBUGREGS, MSRS, LAPIC, EVENTS, MP_STATE};
  uint32_t version;
  a->failed = "saved vCPU state";
  if (len < sizeof(version)) return -EINVAL;
  memcpy(&version, data, sizeof(version));
  if (version != STATE_VERSION) return -EINVAL;
  for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
    for (size_t at = sizeof(version); at < len;) {
      uint32_t head[2];
      if (len - at < sizeof(head)) return -EINVAL;
      memcpy(head, data + at, sizeof(head));
      at += sizeof(head);
      if (len - at < head[1]) return -EINVAL;
      if (head[0] == order[i]) {
        void *copy = malloc(head[1] ? head[1] : 1); /* aligned, as the structs need */
        if (!copy) return -ENOMEM;
        memcpy(copy, data + at, head[1]);
        int r = restore_section(a, fd, head[0], copy, head[1]);
        free(copy);
        if (r < 0) return r;
      }
      at += head[1];
    }
  }
  return 0;
}
