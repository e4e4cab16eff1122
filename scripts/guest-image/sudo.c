/*
 * A very small sudo for the guest image: members of group 27 (sudo) may run
 * anything as anyone, without a password. It knows the options that test
 * suites and people type most; it has no rules file.
 *
 * Built statically and without NSS: users are read from /etc/passwd.
 */
#define _DEFAULT_SOURCE
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SUDO_GROUP 27
#define MAX_GROUPS 64

static int allowed(void)
{
    gid_t groups[MAX_GROUPS];
    int count = getgroups(MAX_GROUPS, groups);

    if (getuid() == 0 || getgid() == SUDO_GROUP)
        return 1;
    for (int i = 0; i < count; i++)
        if (groups[i] == SUDO_GROUP)
            return 1;
    return 0;
}

/* Finds a user by name, or by number when the name starts with '#'. */
static struct passwd *find_user(const char *name)
{
    struct passwd *entry;
    FILE *file = fopen("/etc/passwd", "re");

    if (file == NULL)
        return NULL;
    while ((entry = fgetpwent(file)) != NULL) {
        if (name[0] == '#' && entry->pw_uid == (uid_t)atol(name + 1))
            break;
        if (strcmp(entry->pw_name, name) == 0)
            break;
    }
    fclose(file);
    return entry;
}

static void usage(void)
{
    fputs("usage: sudo [-nSEHAPbk] [-u USER] [-i | -s] [NAME=VALUE ...] [COMMAND [ARGUMENT ...]]\n", stderr);
    exit(1);
}

int main(int argc, char **argv)
{
    const char *user = "root";
    int login = 0, shell = 0, background = 0, only_forget = 0, option;
    struct passwd *target;

    while ((option = getopt(argc, argv, "+nSEHAPbkKVvlisu:g:p:")) != -1) {
        switch (option) {
        case 'u': user = optarg; break;
        case 'i': login = 1; break;
        case 's': shell = 1; break;
        case 'b': background = 1; break;
        case 'k': case 'K': case 'v': only_forget = 1; break;
        case 'l': puts("(ALL : ALL) NOPASSWD: ALL"); return 0;
        case 'V': puts("sudo of the Kilonova guest image"); return 0;
        case '?': usage(); break;
        default: break; /* -n -S -E -H -A -P -g -p: nothing to do */
        }
    }
    if (!allowed()) {
        fputs("sudo: only members of the group sudo may do this\n", stderr);
        return 1;
    }
    target = find_user(user);
    if (target == NULL) {
        fprintf(stderr, "sudo: unknown user: %s\n", user);
        return 1;
    }

    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", target->pw_dir, 1);
    setenv("USER", target->pw_name, 1);
    setenv("LOGNAME", target->pw_name, 1);
    setenv("SHELL", target->pw_shell, 1);
    while (optind < argc && strchr(argv[optind], '=') != NULL && argv[optind][0] != '/')
        putenv(argv[optind++]);
    if (optind >= argc && !login && !shell) {
        if (only_forget)
            return 0;
        usage();
    }

    gid_t groups[2] = { target->pw_gid, SUDO_GROUP };
    size_t count = target->pw_uid == 0 || target->pw_gid == SUDO_GROUP ? 1 : 2;
    if (setgroups(count, groups) != 0 || setgid(target->pw_gid) != 0 || setuid(target->pw_uid) != 0) {
        perror("sudo");
        return 1;
    }
    if (login && chdir(target->pw_dir) != 0)
        perror("sudo: chdir");
    if (background && fork() != 0)
        return 0;

    if (!login && !shell) {
        execvp(argv[optind], &argv[optind]);
        fprintf(stderr, "sudo: %s: %s\n", argv[optind], strerror(errno));
        return errno == ENOENT ? 127 : 126;
    }
    if (optind >= argc) {
        execl(target->pw_shell, login ? "-sh" : "sh", (char *)NULL);
    } else {
        /* "sudo -s a b c" hands the shell one string, as the real one does. */
        char *line = calloc(1, 1);
        for (int i = optind; i < argc; i++) {
            size_t size = strlen(line) + strlen(argv[i]) + 2;
            char *longer = realloc(line, size);
            if (longer == NULL)
                return 1;
            line = longer;
            if (i > optind)
                strcat(line, " ");
            strcat(line, argv[i]);
        }
        execl(target->pw_shell, login ? "-sh" : "sh", "-c", line, (char *)NULL);
    }
    perror("sudo");
    return 126;
}
