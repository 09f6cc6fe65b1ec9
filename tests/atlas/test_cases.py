"""Where each known case of Atlas stands: what it is, and the test that is named after it.

Numbers are those of our notes on the field's issue threads; ``4 …`` and so on are their sections.
"""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

CASES = {
    "4 user already exists, ours": "atlas/test_answers.py::test_a_bind_survives",
    "4 user already exists, somebody else's": "atlas/test_answers.py::test_a_name_that_somebody_elses_user_has_fails",
    "4 missing user": "unit/test_atlas_errors.py::test_a_user_is_gone_by_both_codes_that_get_and_delete_use",
    "4 cluster missing": "atlas/test_clusters_and_projects.py::test_a_missing_cluster_is_named",
    "4 flex in the clusters API": "atlas/test_clusters_and_projects.py::test_users_work_on_a_cluster_of_each_kind",
    "4 project missing": "atlas/test_answers.py::test_404_of_a_project_is_not_404_of_the_user",
    "4 key valid, no role": "integration/test_check.py::test_a_key_that_may_only_read",
    "4 key valid, not in project": "integration/test_check.py::test_a_key_of_another_project",
    "4 bad key": "integration/test_check.py::test_a_wrong_key",
    "4 caller not on the API list": "integration/test_check.py::test_an_address_that_the_api_access_list_does_not_have",
    "4 rate limited": "atlas/test_answers.py::test_429_with_retry_after_is_honoured",
    "4 too many users": "atlas/test_users_that_work.py::test_group_users_limit_exceeded_fails_a_bind_with_what_to_do",
    "4 too many collection roles": "atlas/test_answers.py::test_a_bind_fails_at_once_with_atlass_reason",
    "4 weak password, bad name, role, date": "atlas/test_answers.py::test_a_bind_fails_at_once_with_atlass_reason",
    "4 custom role assignment": "atlas/test_roles_and_lives.py::test_a_custom_role_is_given_on_admin_and_alone",
    "4 concurrent change, upgrade, server trouble": "atlas/test_answers.py::test_a_bind_survives",
    "4 paused": "atlas/test_clusters_and_projects.py::test_no_instance_is_made_on_a_cluster_that_cannot_be_used",
    "4 users while the cluster is UPDATING": (
        "atlas/test_clusters_and_projects.py::test_a_cluster_that_is_being_changed_can_be_used"
    ),
    "5 fields of a user": "atlas/test_roles_and_lives.py::test_a_user_is_scoped_to_the_cluster_and_labelled",
    "5 at most a week": "atlas/test_roles_and_lives.py::test_more_than_a_week_is_refused_before_atlas_is_asked",
    "5 names need no escaping": "atlas/test_roles_and_lives.py::test_a_binding_id_that_no_uri_could_hold",
    "5 eighty of a hundred users": "atlas/test_users_that_work.py::test_the_workers_warn_at_eighty_users_of_a_hundred",
    "5.1 stale APPLIED": "atlas/test_users_that_work.py::test_a_stale_applied_cannot_fool_a_bind_however_binds_overlap",
    "5.1 unrelated PENDING": "atlas/test_users_that_work.py::test_an_unrelated_change_keeps_a_bind_waiting",
    "5.1 deletion takes as long": "atlas/test_users_that_work.py::test_an_unbind_has_succeeded_when_the_user_can_no",
    "6 strings are empty while creating": (
        "atlas/test_clusters_and_projects.py::test_a_provision_waits_until_its_cluster_has_been_created"
    ),
    "6 M0 gives the srv string first": (
        "atlas/test_clusters_and_projects.py::test_a_free_cluster_whose_standard_string_comes_later"
    ),
    "6 private strings": "atlas/test_clusters_and_projects.py::test_the_way_to_connect_is_a_parameter",
    "6 several hosts": "atlas/test_clusters_and_projects.py::test_several_hosts_and_options_are_kept",
    "6 deleting, then 404": "atlas/test_clusters_and_projects.py::test_unbind_and_deprovision_succeed_when_the_cluster",
    "7 dropping a database": "atlas/databases/test_dropping.py::test_users_go_first_then_a_scoped_expiring_user_drops",
    "7 the host is not on the project's list": "atlas/databases/test_dropping.py::test_a_cluster_that_cannot_be",
    "8.1 a fresh user cannot log in for seconds": "atlas/test_users_that_work.py::test_a_stale_applied_cannot_fool_a_b",
    "8.2 authentication fails at random": "atlas/test_users_that_work.py::test_verify_login_retries_until_the_fresh",
    "8.3 12 s a user, one by one": "atlas/test_users_that_work.py::test_a_hundred_binds_cost_a_hundred_posts",
    "8.4 code of DELETE": "atlas/test_roles_and_lives.py::test_a_binding_whose_user_atlas_has_removed_can_be_unbound",
    "8.5 scope on a missing cluster": "atlas/test_clusters_and_projects.py::test_a_bind_fails_when_its_cluster_is",
    "8.7 bad input gives 500": "atlas/test_answers.py::test_a_500_that_never_ends_is_refused_in_disguise",
    "8.8 401 read as gone": "atlas/test_answers.py::test_a_refused_key_is_never_read_as_gone",
    "8.9 delete must be retried": "atlas/test_answers.py::test_a_delete_is_repeated_until_the_user_is_really_gone",
    "8.10 names to be encoded": "atlas/test_roles_and_lives.py::test_users_with_odd_names_are_made_used_and_removed",
    "8.12 a custom role is on admin": "atlas/test_roles_and_lives.py::test_a_custom_role_is_given_on_admin_and_alone",
    "8.13 collection roles": "atlas/test_answers.py::test_a_bind_fails_at_once_with_atlass_reason",
    "8.15 401 for a right key": "integration/test_check.py::test_a_key_of_another_project",
    "8.16 rotating addresses": "atlas/test_answers.py::test_a_bind_survives",
    "8.17 limits on minting": "atlas/test_tokens_and_rates.py::test_a_revoked_token_is_replaced_by_one_mint",
    "8.18 EOF while polling": "atlas/test_users_that_work.py::test_a_poll_that_fails_is_repeated",
    "8.19 itemsPerPage ignored": "unit/test_atlas_client.py::test_a_list_is_complete_when_items_per_page_is_ignored",
    "8.20 a newline in a key": "unit/test_atlas_auth.py::test_a_newline_in_a_key_is_stripped",
    "8.21 no back-off at 429": "atlas/test_answers.py::test_429_without_retry_after_is_no_storm",
    "8.22 POST again after a time-out": "atlas/test_answers.py::test_a_bind_survives",
    "8.23 the wire is not the description": "emulator_tests/test_wire.py::test_creating_a_user",
}
"""The broker cannot meet 8.6, 8.11 and 8.14: it neither makes nor deletes clusters, custom roles or access lists."""


@pytest.mark.parametrize("case", CASES)
def test_the_test_of_a_case_is_there(case: str) -> None:
    file, name = CASES[case].split("::")
    assert re.search(rf"^def {re.escape(name)}", (TESTS / file).read_text(), re.MULTILINE), CASES[case]
