/* SPDX-License-Identifier: Apache-2.0 */
/* Between fake_kvm.c and guest.c. */
#ifndef GUEST_H
#define GUEST_H

enum { GUEST_RUN_SIZE = 12288, GUEST_DATA = 4096 };

int guest_run(void);      /* KVM_RUN on the calling vCPU thread */
void guest_end_all(void); /* no program runs any more */
void guest_forget(void);  /* the threads are gone */

#endif
